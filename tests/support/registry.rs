//! Registries for tests: Debian's real one, and one in this process that
//! misbehaves as it is told.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use rcompose::image::Digest;

use super::{finish, free_port, script};

/// A running docker-registry on loopback; ends when dropped.
#[derive(Debug)]
pub struct RealRegistry {
    folder: tempfile::TempDir,
    /// `127.0.0.1:PORT`.
    pub host: String,
    /// Its token server.
    tokens: Option<std::process::Child>,
}

impl RealRegistry {
    /// Starts an empty one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let this = Self {
            folder,
            host,
            tokens: None,
        };
        this.launch();
        this
    }

    fn launch(&self) {
        let port = self.host.rsplit(':').next().unwrap();
        finish(script("registry").arg("start").arg(self.folder.path()).arg(port)).ok();
    }

    /// Starts it again with TLS, on the same port; the file of the authority
    /// that has signed its certificate. Needs openssl.
    pub fn restart_with_tls(&self) -> std::path::PathBuf {
        finish(script("registry").arg("stop").arg(self.folder.path())).ok();
        self.certificates();
        let free = || std::net::TcpListener::bind(&self.host).ok();
        super::wait_for("the end of the plain registry", free);
        self.launch();
        self.authority()
    }

    fn certificates(&self) {
        let make = "
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
            openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout tls.key -out tls.csr
            echo subjectAltName=IP:127.0.0.1,DNS:registry.test > names
            openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt";
        finish(
            Command::new("sh")
                .args(["-ec", make])
                .current_dir(self.folder.path()),
        )
        .ok();
    }

    /// Starts one with TLS that wants `test` and `secret`: by Basic
    /// authorization, or by tokens, of which anybody gets one to pull. Needs
    /// openssl and htpasswd.
    pub fn secured(tokens: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let mut this = Self {
            folder,
            host,
            tokens: None,
        };
        this.certificates();
        let at = this.folder.path();
        if tokens {
            let sign = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=signer -keyout sign.key -out sign.crt";
            finish(Command::new("sh").args(["-ec", sign]).current_dir(at)).ok();
            let server = script("token-server").arg(at).arg(&this.host).spawn().unwrap();
            let port = at.join("token.port");
            super::wait_for("the token server", || port.exists().then_some(()));
            this.tokens = Some(server);
        } else {
            let output = finish(Command::new("htpasswd").args(["-Bbn", "test", "secret"])).ok();
            fs::write(at.join("htpasswd"), output.stdout.trim()).unwrap();
        }
        this.launch();
        this
    }

    /// Starts one with TLS that answers only who has a certificate of its
    /// authority; the certificate and the key of somebody who has. Needs openssl.
    pub fn for_known_clients() -> (Self, std::path::PathBuf, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let this = Self {
            folder,
            host,
            tokens: None,
        };
        this.certificates();
        let make = "
            openssl req -newkey rsa:2048 -nodes -subj /CN=client -keyout client.key -out client.csr
            echo basicConstraints=CA:FALSE > client.ext
            openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile client.ext -out client.cert
            cp ca.crt client-ca.crt";
        let at = this.folder.path();
        finish(Command::new("sh").args(["-ec", make]).current_dir(at)).ok();
        let (certificate, key) = (at.join("client.cert"), at.join("client.key"));
        let port = this.host.rsplit(':').next().unwrap();
        finish(script("registry").arg("start").arg(at).arg(port)).ok();
        (this, certificate, key)
    }

    /// The file of the authority that has signed its certificate.
    pub fn authority(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Pushes a layout under a name; the reference it then has.
    pub fn push(&self, layout: &Path, name: &str) -> String {
        let reference = format!("{}/{name}:latest", self.host);
        finish(script("push").arg(layout).arg(&reference)).ok();
        reference
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        finish(script("registry").arg("stop").arg(self.folder.path()));
        if let Some(mut tokens) = self.tokens.take() {
            let _ = tokens.kill();
            let _ = tokens.wait();
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The body that is announced.
    pub body: Vec<u8>,
    /// After so many bytes of the body the connection is closed.
    pub cut: Option<usize>,
    /// After so many bytes of the body nothing more comes, while the connection stays.
    pub stall: Option<usize>,
}

impl Answer {
    /// A body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Behaviour = dyn Fn(&Asked, Answer) -> Answer + Send + Sync;

/// A registry in this process. It serves what it is given, and each answer goes
/// through the test's own function first. Its threads end with the process.
pub struct FakeRegistry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    content: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeRegistry {
    /// Starts one.
    pub fn start(behaviour: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            host: listener.local_addr().unwrap().to_string(),
            content: Arc::default(),
            asked: Arc::default(),
        };
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (content, asked) = (Arc::clone(&this.content), Arc::clone(&this.asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (content, asked) = (Arc::clone(&content), Arc::clone(&asked));
                let behaviour = Arc::clone(&behaviour);
                thread::spawn(move || {
                    // A client that goes away is none of our business.
                    let _ = serve(stream?, &content, &asked, &*behaviour);
                    std::io::Result::Ok(())
                });
            }
        });
        this
    }

    /// Serves a blob; its descriptor without the media type.
    pub fn blob(&self, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::of(bytes);
        let path = format!("/v2/app/blobs/{digest}");
        self.content.lock().unwrap().insert(path, bytes.to_vec());
        serde_json::json!({"digest": digest.to_string(), "size": bytes.len()})
    }

    /// Serves a manifest by its digest and a tag of the repository `app`; its descriptor.
    pub fn manifest(&self, tag: &str, manifest: &serde_json::Value) -> serde_json::Value {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::of(&bytes);
        let mut content = self.content.lock().unwrap();
        for version in [tag, &digest.to_string()] {
            content.insert(format!("/v2/app/manifests/{version}"), bytes.clone());
        }
        serde_json::json!({"digest": digest.to_string(), "size": bytes.len()})
    }

    /// Serves an image of layers (tar archives) under a tag of `app`; the
    /// reference, and the digests of the compressed layers.
    pub fn image(&self, tag: &str, layers: &[Vec<u8>]) -> (String, Vec<String>) {
        let mut descriptors = Vec::new();
        for layer in layers {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).unwrap();
            descriptors.push(self.blob(&encoder.finish().unwrap()));
        }
        let config = self.blob(&config(layers));
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": descriptors});
        self.manifest(tag, &manifest);
        let digests = descriptors
            .iter()
            .map(|one| one["digest"].as_str().unwrap().to_owned());
        (format!("{}/app:{tag}", self.host), digests.collect())
    }

    /// How often a path that contains this was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.asked()
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }

    /// All that was asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// The configuration of an image of these layers.
pub fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diffs: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    }))
    .unwrap()
}

/// A tar archive of files (a name ending in a slash is a folder).
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        let folder = name.ends_with('/');
        header.set_entry_type(if folder {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if folder { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn serve(
    stream: TcpStream,
    content: &Mutex<HashMap<String, Vec<u8>>>,
    asked: &Mutex<Vec<Asked>>,
    behaviour: &Behaviour,
) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next() {
        let path = line?.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        for line in lines.by_ref() {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = {
            let mut asked = asked.lock().unwrap();
            let before = asked.iter().filter(|one| one.path == path).count();
            let request = Asked {
                path,
                headers,
                before,
            };
            asked.push(request.clone());
            request
        };
        let found = content.lock().unwrap().get(&request.path).cloned();
        let range = request.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        let answer = match (found, range) {
            (None, _) => Answer {
                status: 404,
                body: br#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#.to_vec(),
                ..Answer::default()
            },
            (Some(body), Some(from)) => Answer {
                status: 206,
                ..Answer::ok(&body[from..])
            }
            .header(
                "Content-Range",
                format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
            ),
            (Some(body), None) => Answer::ok(body),
        };
        let answer = behaviour(&request, answer);
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        writer.write_all(head.as_bytes())?;
        writer.write_all(b"\r\n")?;
        let end = answer.cut.or(answer.stall).unwrap_or(answer.body.len());
        writer.write_all(&answer.body[..end])?;
        if answer.cut.is_some() {
            return Ok(());
        }
        if answer.stall.is_some() {
            // Until the client goes away.
            for line in lines.by_ref() {
                line?;
            }
        }
    }
    Ok(())
}

/// Copies a folder's regular files, as far as layouts need it.
pub fn copy_layout(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_layout(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
