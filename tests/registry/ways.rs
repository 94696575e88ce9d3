//! The ways to a registry: proxies, certificates of clients, tokens that expire
//! in the middle of a push, all tags of a repository.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rcompose::image::{Authored, ImageStore};

use super::support::push::PushRegistry;
use super::support::registry::{FakeRegistry, RealRegistry, archive};
use super::support::{finish, images, root};
use super::{Own, on_runtime, pull};

/// A proxy that leads wherever it is asked to one place; what it was asked for.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://user:pass@{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (target, log) = (target.to_owned(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (target, log) = (target.clone(), Arc::clone(&log));
                std::thread::spawn(move || {
                    // Whoever goes away is none of our business.
                    let _ = relay(client?, &target, &log);
                    std::io::Result::Ok(())
                });
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn relay(client: TcpStream, target: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut server = TcpStream::connect(target)?;
    let (back, answers) = (client.try_clone()?, server.try_clone()?);
    let mut down = None;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return server.shutdown(std::net::Shutdown::Both);
            }
        }
        let first = head.lines().next().unwrap_or_default().to_owned();
        let login = head.to_ascii_lowercase();
        let login = login.contains("proxy-authorization: basic dxnlcjpwyxnz");
        log.lock().unwrap().push(format!("{first} {login}"));
        let tunnel = first.starts_with("CONNECT ");
        if tunnel {
            client.try_clone()?.write_all(b"HTTP/1.1 200 X\r\n\r\n")?;
        } else {
            // The origin's own form; what is only read has no body.
            server.write_all(head.replacen("http://registry.test", "", 1).as_bytes())?;
        }
        if down.is_none() {
            let (mut answers, mut back) = (answers.try_clone()?, back.try_clone()?);
            down = Some(std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Both);
            }));
        }
        if tunnel {
            std::io::copy(&mut reader, &mut server)?;
            return server.shutdown(std::net::Shutdown::Write);
        }
    }
}

/// Not a test of its own: pulls with the environment that it is given.
#[test]
fn helper_that_pulls() {
    let (Some(folder), Some(source)) = (std::env::var_os("WAYS_FOLDER"), std::env::var_os("WAYS_SOURCE"))
    else {
        return;
    };
    let folder = Path::new(&folder);
    let store = ImageStore::open(folder.join("images"))
        .with_docker_config(folder.join("config.json"))
        .with_settings_below(folder.to_owned());
    match pull(&store, source.to_str().unwrap()) {
        Ok(image) => println!("pulled {}", image.id),
        Err(error) => println!("failed: {error}"),
    }
}

fn helped(folder: &Path, source: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "ways::helper_that_pulls", "--nocapture"])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("WAYS_FOLDER", folder)
        .env("WAYS_SOURCE", source)
        .envs(environment.iter().copied());
    finish(&mut command).ok().stdout
}

#[test]
fn proxies_are_used_as_the_environment_says() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    registry.image("latest", &[archive(&[("file", b"x")])]);
    let proxy = Proxy::to(&registry.host);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("etc/docker")).unwrap();
    fs::write(
        at("etc/docker/daemon.json"),
        r#"{"insecure-registries": ["registry.test"]}"#,
    )
    .unwrap();
    // Nobody knows this name but the proxy. Whoever may do without TLS is asked
    // by HTTPS first, through the tunnel.
    let told = helped(
        folder.path(),
        "registry.test/app",
        &[("HTTP_PROXY", &proxy.url), ("http_proxy", &proxy.url)],
    );
    assert!(told.contains("pulled sha256:"), "{told}");
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .any(|one| one.starts_with("GET http://registry.test/v2/app/")),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|one| one.ends_with("true")),
        "the proxy's own login: {asked:?}"
    );
    // Not this one.
    let before = proxy.asked().len();
    let other = tempfile::tempdir().unwrap();
    let told = helped(
        other.path(),
        "registry.test/app",
        &[
            ("HTTP_PROXY", &proxy.url),
            ("HTTPS_PROXY", &proxy.url),
            ("NO_PROXY", "example.com,.test"),
        ],
    );
    assert!(told.contains("failed:"), "{told}");
    assert_eq!(proxy.asked().len(), before, "{told}");
}

#[test]
fn tls_goes_through_the_tunnel_of_a_proxy() {
    if !root() {
        return;
    }
    let registry = RealRegistry::start();
    let layout = images().join("busybox");
    registry.push(&layout, "app");
    let authority = registry.restart_with_tls();
    let proxy = Proxy::to(&registry.host);
    let folder = tempfile::tempdir().unwrap();
    let certificates = folder.path().join("etc/docker/certs.d/registry.test");
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(authority, certificates.join("ca.crt")).unwrap();
    let told = helped(folder.path(), "registry.test/app", &[("HTTPS_PROXY", &proxy.url)]);
    assert!(told.contains("pulled sha256:"), "{told}");
    let asked = proxy.asked();
    assert!(
        !asked.is_empty()
            && asked
                .iter()
                .all(|one| one == "CONNECT registry.test:443 HTTP/1.1 true"),
        "{asked:?}"
    );
    // One that is spoken to by TLS itself is refused by name.
    let other = tempfile::tempdir().unwrap();
    let told = helped(
        other.path(),
        "registry.test/app",
        &[("HTTPS_PROXY", "https://127.0.0.1:1")],
    );
    assert!(
        told.contains("only proxies that are spoken to by plain HTTP"),
        "{told}"
    );
}

#[test]
fn a_client_shows_its_certificate() {
    if !root() {
        return;
    }
    let (registry, certificate, key) = RealRegistry::for_known_clients();
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings");
    let certificates = settings.join("etc/docker/certs.d").join(&registry.host);
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(registry.authority(), certificates.join("ca.crt")).unwrap();
    let store = || {
        ImageStore::open(folder.path().join("images"))
            .with_docker_config(folder.path().join("config.json"))
            .with_settings_below(settings.clone())
    };
    let name = format!("{}/app:1", registry.host);
    let tar = folder.path().join("app.tar");
    fs::write(&tar, archive(&[("file", b"x")])).unwrap();
    let authored = Authored {
        reference: Some(name.clone()),
        ..Authored::default()
    };
    on_runtime(store().import(fs::File::open(&tar).unwrap(), &authored, |_| {})).unwrap();
    let error = on_runtime(store().push(&name, false, |_| {}))
        .unwrap_err()
        .to_string();
    assert!(error.to_ascii_lowercase().contains("certificate"), "{error}");
    fs::copy(certificate, certificates.join("client.cert")).unwrap();
    fs::copy(key, certificates.join("client.key")).unwrap();
    on_runtime(store().push(&name, false, |_| {})).unwrap();
    store().remove(&name).unwrap();
    pull(&store(), &name).unwrap();
}

#[test]
fn tokens_expire_in_the_middle_of_a_push() {
    if !root() {
        return;
    }
    let server = PushRegistry::with_tokens();
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("images"))
        .with_docker_config(folder.path().join("config.json"))
        .with_settings_below(folder.path().to_owned());
    let noise: Vec<u8> = (0..6_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let tar = folder.path().join("noise.tar");
    fs::write(&tar, archive(&[("noise", &noise)])).unwrap();
    let name = format!("{}/app:1", server.host);
    let authored = Authored {
        reference: Some(name.clone()),
        ..Authored::default()
    };
    on_runtime(store.import(fs::File::open(&tar).unwrap(), &authored, |_| {})).unwrap();
    let pushed = on_runtime(store.push(&name, false, |_| {})).unwrap();
    assert_eq!(server.manifest("1"), pushed[0].digest);
    assert!(server.tokens() > 1, "renewed in the middle");
}

/// `image pull --all-tags`, over several pages of tags.
#[test]
fn all_tags_are_pulled() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|asked, answer| {
        let next = "</v2/app/tags/list?last=two>; rel=\"next\"";
        match asked.path.as_str() {
            "/v2/app/tags/list" => {
                super::support::registry::Answer::ok(r#"{"name":"app","tags":["one","two","../../x","two"]}"#)
                    .header("Link", next)
            }
            path if path.starts_with("/v2/app/tags/list?") => {
                assert!(path.contains("last=two"), "{path}");
                super::support::registry::Answer::ok(r#"{"name":"app","tags":["three"]}"#)
            }
            _ => answer,
        }
    });
    for tag in ["one", "two", "three"] {
        registry.image(tag, &[archive(&[(tag, b"x")])]);
    }
    let own = Own::new(None);
    let name = format!("{}/app", registry.host);
    own.ok(&["image", "pull", "-q", "--all-tags", &name]);
    let listed = own.ok(&["image", "ls", "--format", "{{.Tag}}"]);
    let mut tags: Vec<&str> = listed.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["one", "three", "two"]);
    let wrong = own.run(&["image", "pull", "-a", &format!("{name}:one")]);
    assert!(wrong.stderr.contains("--all-tags"), "{wrong:?}");
    // Of one platform, as asked.
    let here = format!("{name}:one");
    own.ok(&[
        "image",
        "inspect",
        "--platform",
        &format!("linux/{}", own_architecture()),
        &here,
    ]);
    let other = own.run(&["image", "history", "--platform", "linux/s390x", &here]);
    assert!(other.stderr.contains("linux/s390x"), "{other:?}");
}

fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
