//! Registries that people use: with TLS, logins and tokens, and what skopeo and
//! podman make of what is pushed and saved here, and the reverse.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "registry/disk.rs"]
mod disk;
#[path = "registry/docker.rs"]
mod docker;
#[path = "registry/layers.rs"]
mod layers;
mod support;
#[path = "registry/ways.rs"]
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcompose::image::{Authored, ImageError, ImageStore, Input, Progress};
use support::registry::{Answer, FakeRegistry, RealRegistry, archive};
use support::{Output, finish, images, root, wait_for};

/// A state root and a home of a test's own.
struct Own {
    folder: tempfile::TempDir,
    authority: Option<PathBuf>,
}

impl Own {
    fn new(registry: Option<&RealRegistry>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home/.docker", "state", "bin"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            authority: registry.map(RealRegistry::authority),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rcompose"));
        let path = std::env::var("PATH").unwrap();
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("HOME", self.at("home"))
            .env("RCOMPOSE_STATE_ROOT", self.at("state"));
        if let Some(authority) = &self.authority {
            command.env("SSL_CERT_FILE", authority);
        }
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        finish(&mut self.command(arguments))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok().stdout
    }

    fn login(&self, registry: &RealRegistry, password: &str) -> Output {
        let mut child = self
            .command(&["login", &registry.host, "-u", "test", "--password-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(password.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Loads a test image and tags it.
    fn load(&self, name: &str, tags: &[&str]) -> String {
        self.ok(&["image", "load", "-q", "-i", images().join(name).to_str().unwrap()]);
        let id = self
            .ok(&["image", "ls", "-q", "--no-trunc"])
            .lines()
            .next()
            .unwrap()
            .to_owned();
        for tag in tags {
            self.ok(&["image", "tag", &id, tag]);
        }
        id
    }
}

fn inspected(reference: &str, certificates: &Path, login: &str) -> serde_json::Value {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--raw", "--cert-dir"]).arg(certificates);
    if !login.is_empty() {
        skopeo.args(["--creds", login]);
    }
    let output = finish(skopeo.arg(format!("docker://{reference}"))).ok();
    serde_json::from_str(&output.stdout).unwrap()
}

/// A folder with the authority of a registry, as `certs.d` has it.
fn certificates(registry: &RealRegistry) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(registry.authority(), folder.path().join("ca.crt")).unwrap();
    folder
}

fn layout_manifest(layout: &Path) -> serde_json::Value {
    let read =
        |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(layout.join("index.json"));
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    read(layout.join("blobs").join(digest))
}

#[test]
fn a_registry_with_basic_authorization() {
    if !root() {
        return;
    }
    with_login(false);
}

#[test]
fn a_registry_with_tokens() {
    if !root() {
        return;
    }
    with_login(true);
}

/// Log in, push under several tags, let skopeo look and copy, log out, be
/// refused; pull what skopeo has pushed.
fn with_login(tokens: bool) {
    let registry = RealRegistry::secured(tokens);
    let own = Own::new(Some(&registry));
    let name = format!("{}/team/app", registry.host);
    let (one, latest) = (format!("{name}:1.2.3"), format!("{name}:latest"));
    own.load("redis", &[&one, &latest]);

    let refused = own.run(&["image", "push", &one]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("rcompose login"), "{refused:?}");
    let wrong = own.login(&registry, "wrong");
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.contains("not accepted"), "{wrong:?}");
    assert!(!own.at("home/.docker/config.json").exists());
    let done = own.login(&registry, "secret\n").ok();
    assert!(done.stdout.contains("Login Succeeded"), "{done:?}");

    let pushed = own.ok(&["image", "push", "--all-tags", &name]);
    assert_eq!(pushed.lines().count(), 2, "{pushed}");
    let certificates = certificates(&registry);
    let manifest = inspected(&one, certificates.path(), "test:secret");
    assert_eq!(
        manifest,
        layout_manifest(&images().join("redis")),
        "the manifest as it was"
    );
    assert_eq!(inspected(&latest, certificates.path(), "test:secret"), manifest);

    // Again: everything is there. Elsewhere: everything is mounted.
    let again = own.run(&["--progress", "plain", "image", "push", &one]).ok();
    assert_eq!(again.stderr.matches(": exists").count(), 3, "{again:?}");
    let other = format!("{}/other/app:1", registry.host);
    own.ok(&["image", "tag", &one, &other]);
    let mounted = own.run(&["--progress", "plain", "image", "push", &other]).ok();
    assert_eq!(mounted.stderr.matches(": mounted").count(), 3, "{mounted:?}");

    // skopeo takes it, and gives another.
    let copy = tempfile::tempdir().unwrap();
    finish(
        Command::new("skopeo")
            .args(["copy", "-q", "--src-creds", "test:secret", "--src-cert-dir"])
            .arg(certificates.path())
            .args([
                format!("docker://{other}"),
                format!("oci:{}", copy.path().display()),
            ]),
    )
    .ok();
    let theirs = format!("{}/skopeo/busybox:1", registry.host);
    finish(
        Command::new("skopeo")
            .args([
                "copy",
                "-q",
                "--format",
                "v2s2",
                "--dest-creds",
                "test:secret",
                "--dest-cert-dir",
            ])
            .arg(certificates.path())
            .args([
                format!("oci:{}", images().join("busybox").display()),
                format!("docker://{theirs}"),
            ]),
    )
    .ok();
    let fresh = Own::new(Some(&registry));
    if tokens {
        fresh.ok(&["image", "pull", "-q", &theirs]);
    } else {
        let refused = fresh.run(&["image", "pull", &theirs]);
        assert!(refused.stderr.contains("wants a login"), "{refused:?}");
    }
    own.ok(&["image", "pull", &theirs]);
    assert!(own.ok(&["image", "ls"]).contains("skopeo/busybox"));

    // Tokens for this registry come with an identity token, which is what is kept.
    let config = fs::read_to_string(own.at("home/.docker/config.json")).unwrap();
    assert_eq!(config.contains("refresh-test"), tokens, "{config}");
    own.ok(&["logout", &registry.host]);
    let refused = own.run(&["image", "push", &one]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

/// A helper program as people have them, and what it is asked.
#[test]
fn a_credential_helper_is_asked() {
    if !root() {
        return;
    }
    let registry = RealRegistry::secured(false);
    let own = Own::new(Some(&registry));
    let helper = own.at("bin/docker-credential-test");
    let kept = own.at("kept");
    fs::write(
        &helper,
        format!(
            "#!/bin/sh\ncase $1 in\n\
             store) cat > {0} ;;\n\
             get) cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\n\
             erase) rm {0} ;;\nesac\n",
            kept.display()
        ),
    )
    .unwrap();
    finish(Command::new("chmod").arg("755").arg(&helper)).ok();
    fs::write(own.at("home/.docker/config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let name = format!("{}/app:1", registry.host);
    own.load("busybox", &[&name]);
    assert_eq!(own.run(&["image", "push", &name]).code, 1);
    own.login(&registry, "secret").ok();
    let secret = fs::read_to_string(&kept).unwrap();
    assert!(
        secret.contains(&registry.host) && secret.contains("secret"),
        "{secret}"
    );
    let config = fs::read_to_string(own.at("home/.docker/config.json")).unwrap();
    assert!(!config.contains("\"auth\""), "{config}");
    own.ok(&["image", "push", &name]);
    own.ok(&["logout", &registry.host]);
    assert!(!kept.exists());
    assert_eq!(own.run(&["image", "push", &name]).code, 1);
}

/// `certs.d`, and a registry that wants to know who we are.
#[test]
fn authorities_of_certs_d_are_trusted() {
    if !root() {
        return;
    }
    let registry = RealRegistry::secured(true);
    let name = format!("{}/app:1", registry.host);
    let own = Own::new(Some(&registry));
    own.load("busybox", &[&name]);
    own.login(&registry, "secret").ok();
    own.ok(&["image", "push", &name]);

    let settings = tempfile::tempdir().unwrap();
    let store = |folder: &Path| {
        ImageStore::open(folder.join("images"))
            .with_docker_config(folder.join("config.json"))
            .with_settings_below(settings.path().to_owned())
    };
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&store(folder.path()), &name).unwrap_err().to_string();
    assert!(
        error.contains("certificate") || error.contains("UnknownIssuer"),
        "{error}"
    );
    let at = settings.path().join("etc/docker/certs.d").join(&registry.host);
    fs::create_dir_all(&at).unwrap();
    fs::copy(registry.authority(), at.join("ca.crt")).unwrap();
    // The token server is another host, with the same authority.
    let port = fs::read_to_string(registry.authority().with_file_name("token.port")).unwrap();
    let tokens = settings
        .path()
        .join(format!("etc/docker/certs.d/127.0.0.1:{port}"));
    fs::create_dir_all(&tokens).unwrap();
    fs::copy(registry.authority(), tokens.join("ca.crt")).unwrap();
    pull(&store(folder.path()), &name).unwrap();
    // A key without its certificate is a mistake that is named.
    fs::write(at.join("client.key"), "").unwrap();
    let other = tempfile::tempdir().unwrap();
    let error = pull(&store(other.path()), &name).unwrap_err().to_string();
    assert!(error.contains("client.key"), "{error}");
}

fn pull(store: &ImageStore, source: &str) -> Result<rcompose::image::Image, ImageError> {
    on_runtime(store.pull(source, |_| {}))
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Mirrors are asked first; one that fails, at once or in the middle of a layer,
/// is passed over.
#[test]
fn mirrors_are_asked_first_and_passed_over() {
    if !root() {
        return;
    }
    let noise: Vec<u8> = (0..200_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layers = [archive(&[("data", &noise)])];
    let broken = FakeRegistry::start(|asked, mut answer| {
        if asked.path.contains("/blobs/") && answer.body.len() > 100_000 {
            if asked.before > 0 {
                return Answer::status(404);
            }
            answer.cut = Some(50_000);
        }
        answer
    });
    let (_, digests) = broken.image("latest", &layers);
    let whole = FakeRegistry::start(|_, answer| answer);
    let (reference, _) = whole.image("latest", &layers);
    let settings = tempfile::tempdir().unwrap();
    fs::create_dir_all(settings.path().join("etc/containers")).unwrap();
    fs::write(
        settings.path().join("etc/containers/registries.conf"),
        format!(
            "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n\
             [[registry.mirror]]\nlocation = \"{}\"\n",
            whole.host, broken.host
        ),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("images"))
        .with_docker_config(folder.path().join("config.json"))
        .with_settings_below(settings.path().to_owned());
    let warnings = std::sync::Mutex::new(Vec::new());
    on_runtime(store.pull(&reference, |event| {
        if let Progress::Warning { text } = event {
            warnings.lock().unwrap().push(text);
        }
    }))
    .unwrap();
    let warnings = warnings.into_inner().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(broken.count("/manifests/latest"), 1);
    assert_eq!(
        whole.count("/manifests/latest"),
        0,
        "the mirror has said what it is"
    );
    let rest: Vec<_> = whole
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains(&digests[0]))
        .collect();
    assert!(
        rest[0].headers["range"].starts_with("bytes="),
        "it goes on where the mirror stopped"
    );
}

/// What podman and skopeo save is loaded, and what is saved they load.
#[test]
fn archives_go_both_ways() {
    if !root() {
        return;
    }
    let own = Own::new(None);
    let id = own.load("redis", &["example.test/redis:7", "example.test/redis:latest"]);
    own.load("busybox", &["busybox:1.35"]);
    let saved = own.at("saved.tar");
    let saved = saved.to_str().unwrap();
    own.ok(&[
        "image",
        "save",
        "-o",
        saved,
        "example.test/redis:7",
        "example.test/redis:latest",
        "busybox:1.35",
    ]);
    // As a docker archive, as an OCI archive, and by podman.
    let listed = finish(Command::new("skopeo").args([
        "inspect",
        "--config",
        &format!("docker-archive:{saved}:example.test/redis:7"),
    ]))
    .ok();
    assert!(listed.stdout.contains("redis"), "{listed:?}");
    let oci = format!("oci-archive:{saved}:1.35");
    let oci = finish(Command::new("skopeo").args(["inspect", "--raw", &oci])).ok();
    let busybox = layout_manifest(&images().join("busybox"));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&oci.stdout).unwrap(),
        busybox
    );
    let podman = |arguments: &[&str]| {
        let at = own.at("podman");
        let (root, run) = (at.join("root"), at.join("run"));
        let (root, run) = (root.to_str().unwrap(), run.to_str().unwrap());
        let mut all = vec![
            "--root",
            root,
            "--runroot",
            run,
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
        ];
        all.extend(arguments);
        finish(Command::new("podman").args(all))
    };
    let loaded = podman(&["load", "-q", "-i", saved]).ok();
    assert!(loaded.stdout.contains("example.test/redis:7"), "{loaded:?}");
    let theirs = podman(&["image", "inspect", "--format", "{{.Id}}", "example.test/redis:7"]).ok();
    assert_eq!(theirs.stdout.trim(), id.trim_start_matches("sha256:"));

    for format in ["docker-archive", "oci-archive"] {
        let file = own.at(format);
        let file = file.to_str().unwrap();
        podman(&[
            "save",
            "-q",
            "--format",
            format,
            "-o",
            file,
            "example.test/redis:7",
        ])
        .ok();
        let fresh = Own::new(None);
        let out = fresh.ok(&["image", "load", "-i", file]);
        assert!(
            out.contains("Loaded image: example.test/redis:7"),
            "{format}: {out}"
        );
        let known = fresh.ok(&[
            "image",
            "inspect",
            "--format",
            "{{.Id}} {{len .RootFS.Layers}}",
            "example.test/redis:7",
        ]);
        // podman writes a configuration of its own into an OCI archive.
        let (theirs, layers) = known.trim().split_once(' ').unwrap();
        assert_eq!(layers, "3", "{format}");
        assert!(format == "oci-archive" || theirs == id, "{format}: {known}");
        // And again from there.
        fresh.ok(&[
            "image",
            "save",
            "-o",
            fresh.at("again").to_str().unwrap(),
            "example.test/redis:7",
        ]);
    }
    podman(&["image", "rm", "-a", "-f"]).ok();
    // A stream, compressed.
    let fresh = Own::new(None);
    let stream = finish(Command::new("sh").args([
        "-c",
        &format!(
            "gzip -1 < {saved} | RCOMPOSE_STATE_ROOT={} {} image load",
            fresh.at("state").display(),
            env!("CARGO_BIN_EXE_rcompose")
        ),
    ]))
    .ok();
    assert_eq!(stream.stdout.lines().count(), 3, "{stream:?}");
}

/// Images by hand: every command once.
#[test]
fn the_commands_of_docker() {
    if !root() {
        return;
    }
    let own = Own::new(None);
    let id = own.load("busybox", &["busybox:1.35", "r.test:5000/a/busybox:x"]);
    let short = &id["sha256:".len()..][..12];
    let list = own.ok(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    assert_eq!(
        list,
        format!("busybox:1.35 {short}\nr.test:5000/a/busybox:x {short}\n")
    );
    let table = own.ok(&["image", "ls", "busybox"]);
    assert!(table.starts_with("REPOSITORY   TAG    IMAGE ID"), "{table}");
    assert_eq!(table.lines().count(), 2);
    let json: serde_json::Value = serde_json::from_str(
        own.ok(&[
            "image",
            "ls",
            "--format",
            "json",
            "--filter",
            "reference=r.test*/*/*",
        ])
        .trim(),
    )
    .unwrap();
    assert_eq!(json["Repository"], "r.test:5000/a/busybox");
    let history = own.ok(&["image", "history", "-q", "--no-trunc", short]);
    assert!(history.starts_with(&id), "{history}");
    let inspect: serde_json::Value =
        serde_json::from_str(&own.ok(&["image", "inspect", &short[..6]])).unwrap();
    assert_eq!(inspect[0]["Id"], id.as_str());
    assert_eq!(
        inspect[0]["RepoTags"],
        serde_json::json!(["busybox:1.35", "r.test:5000/a/busybox:x"])
    );

    let refused = own.run(&["image", "rm", short]);
    assert!(refused.stderr.contains("several names"), "{refused:?}");
    assert_eq!(
        own.ok(&["image", "rm", "busybox:1.35"]),
        "Untagged: busybox:1.35\n"
    );
    let gone = own.ok(&["image", "rm", "r.test:5000/a/busybox:x"]);
    assert!(gone.contains(&format!("Deleted: {id}\n")), "{gone}");
    assert_eq!(own.ok(&["image", "ls", "-q"]), "");
    assert_eq!(fs::read_dir(own.at("state/images/layers")).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(own.at("state/images/blobs/sha256")).unwrap().count(),
        0
    );

    let tar = own.at("root.tar");
    fs::write(&tar, archive(&[("bin/", b""), ("bin/x", b"program")])).unwrap();
    let tar = tar.to_str().unwrap();
    let imported = own.ok(&[
        "image",
        "import",
        "-c",
        "CMD [\"/bin/x\"]",
        "-c",
        "ENV A=b",
        "-m",
        "why",
        tar,
        "own:1",
    ]);
    let details = own.ok(&["image", "inspect", "-f", "{{json .Config}} {{.Comment}}", "own:1"]);
    assert_eq!(details, "{\"Cmd\":[\"/bin/x\"],\"Env\":[\"A=b\"]} why\n");
    own.ok(&["image", "import", tar]);
    let all = own.ok(&["image", "ls"]);
    assert!(all.contains("<none>"), "{all}");
    let pruned = own.ok(&["image", "prune", "-f"]);
    assert!(
        pruned.contains("deleted: sha256:") && pruned.contains("Total reclaimed space"),
        "{pruned}"
    );
    assert!(
        own.ok(&["image", "ls", "-q", "--no-trunc"])
            .contains(imported.trim())
    );
    let df = own.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]);
    assert_eq!(df, "Images 1\nContainers 0\nLocal Volumes 0\n");
    own.ok(&["system", "prune", "-a", "-f"]);
    assert_eq!(own.ok(&["image", "ls", "-q"]), "");
    let absent = own.run(&["image", "inspect", "own:1"]);
    assert!(absent.stderr.contains("no such image: own:1"), "{absent:?}");
}

/// A registry that makes pushing hard: it breaks connections, wants small
/// pieces, throttles; the image is there in the end.
#[test]
fn pushes_go_on_after_faults() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = support::push::PushRegistry::start();
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
    let seen = server.seen();
    for wanted in ["429", "413", "cut"] {
        assert!(seen.contains(wanted), "the fault {wanted} was not met: {seen:?}");
    }
    // It is what was sent.
    let other = tempfile::tempdir().unwrap();
    let fresh =
        ImageStore::open(other.path().join("images")).with_docker_config(other.path().join("config.json"));
    let image = on_runtime(fresh.pull(&name, |_| {})).unwrap();
    assert_eq!(fs::read(image.layers[0].join("noise")).unwrap(), noise);
}

/// Two pulls, a removal and prunes at once, again and again: what is named is
/// whole at any time, and in the end nothing is left over.
#[test]
fn pulls_and_prunes_at_once_leave_a_whole_store() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let shared = archive(&[("shared", &[1; 300_000])]);
    let one = registry
        .image("one", &[shared.clone(), archive(&[("one", &[2; 100_000])])])
        .0;
    let two = registry
        .image("two", &[shared, archive(&[("two", &[3; 100_000])])])
        .0;
    let folder = tempfile::tempdir().unwrap();
    let store = || {
        ImageStore::open(folder.path().join("images")).with_docker_config(folder.path().join("config.json"))
    };
    let going = std::sync::atomic::AtomicBool::new(true);
    let going = &going;
    std::thread::scope(|scope| {
        let puller = |name: &str| {
            let (name, store) = (name.to_owned(), store());
            scope.spawn(move || {
                for _ in 0..15 {
                    pull(&store, &name).unwrap();
                    let _ = store.remove(&name);
                }
                pull(&store, &name).unwrap()
            })
        };
        let pullers = [puller(&one), puller(&two)];
        let pruner = store();
        scope.spawn(move || {
            while going.load(std::sync::atomic::Ordering::Relaxed) {
                pruner.prune(&BTreeSet::new()).unwrap();
            }
        });
        let images = pullers.map(|puller| puller.join());
        going.store(false, std::sync::atomic::Ordering::Relaxed);
        for image in images {
            for layer in image.unwrap().layers {
                assert!(layer.is_dir(), "{}", layer.display());
            }
        }
    });
    store().prune(&BTreeSet::new()).unwrap();
    let names = |part: &str| {
        fs::read_dir(folder.path().join("images").join(part))
            .unwrap()
            .count()
    };
    assert_eq!(
        (names("layers"), names("records"), names("ingest"), names("trash")),
        (3, 2, 0, 0)
    );
    assert_eq!(names("blobs/sha256"), 3 + 2 + 2);
}

/// A disk that is full at any moment: the pull fails with a sentence, the store
/// is whole, and with room the next pull finishes.
#[test]
fn a_full_disk_harms_nothing() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let noise: Vec<u8> = (0..100_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layers: Vec<_> = (0..3)
        .map(|n| archive(&[(&*format!("file{n}"), &noise), ("x/", b"")]))
        .collect();
    let (reference, _) = registry.image("latest", &layers);
    for size in (100..3600).step_by(250) {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "mount -t tmpfs -o size={size}k none {0} && exec {1} --state-root {0} image pull -q {reference}",
            folder.path().display(),
            env!("CARGO_BIN_EXE_rcompose"),
        );
        // Then more room, and again; the store must be good for it.
        let again = script.replace("&& exec", "&&");
        let more = format!(
            "{again} 2> {0}.first; mount -o remount,size=64m {0} && rm -f {0}.first && \
             {1} --state-root {0} image pull -q {reference} && \
             {1} --state-root {0} image prune -f >/dev/null && ls {0}/images/layers | wc -l && \
             ls {0}/images/ingest | wc -l",
            folder.path().display(),
            env!("CARGO_BIN_EXE_rcompose"),
        );
        let output = finish(
            Command::new("unshare")
                .args(["-m", "sh", "-c", &more])
                .env("HOME", "/nonexistent"),
        )
        .ok();
        let lines: Vec<_> = output.stdout.lines().rev().take(2).collect();
        assert_eq!(lines, ["0", "3"], "{size} KiB: {output:?}");
    }
}

/// `commit` and `export` of a container, `container ls` and `inspect`.
#[test]
fn containers_become_images() {
    let Some(world) = support::World::new() else {
        return;
    };
    let layout = images().join("busybox");
    world.write(
        "compose.yaml",
        format!(
            "name: made\nservices:\n  web:\n    image: oci:{}\n    command: [sh, -c, 'echo new > /new; rm /bin/busybox-gone /etc/passwd; mkdir /d; exec sleep 1000']\n    environment: {{A: b}}\n",
            layout.display()
        ),
    );
    world.run(&["up", "-d"]).ok();
    wait_for("the changes", || {
        let output = world.run(&[
            "exec",
            "-T",
            "web",
            "sh",
            "-c",
            "test -d /d && ! test -e /etc/passwd",
        ]);
        (output.code == 0).then_some(())
    });
    let list = world
        .run(&["container", "ls", "--format", "{{.Names}} {{.State}}"])
        .ok();
    assert_eq!(list.stdout, "made-web-1 running\n");
    let inspect = world
        .run(&["container", "inspect", "-f", "{{.State.Running}}", "made-web-1"])
        .ok();
    assert_eq!(inspect.stdout, "true\n");
    world
        .run(&["commit", "-m", "why", "-c", "LABEL x=y", "web", "made:1"])
        .ok();
    world.run(&["export", "-o", "tree.tar", "web"]).ok();
    let tree = finish(Command::new("tar").arg("-tf").arg(world.work().join("tree.tar"))).ok();
    assert!(tree.stdout.lines().any(|line| line == "new"), "{tree:?}");
    assert!(!tree.stdout.lines().any(|line| line == "etc/passwd"), "{tree:?}");
    assert!(
        tree.stdout
            .lines()
            .any(|line| line == "etc/group" || line == "bin/busybox"),
        "{tree:?}"
    );
    let used = world
        .run(&["image", "rm", "-f", &format!("oci:{}", layout.display())])
        .ok();
    assert!(!used.stdout.contains("Deleted"), "its container runs: {used:?}");
    world.run(&["down"]).ok();
    // The new image is one layer on top, and runs.
    let env = world
        .run(&[
            "image",
            "inspect",
            "-f",
            "{{json .Config.Env}} {{.Config.Labels.x}}",
            "made:1",
        ])
        .ok();
    assert!(
        env.stdout.contains("A=b") && env.stdout.ends_with("y\n"),
        "{env:?}"
    );
    world.write(
        "compose.yaml",
        "name: made\nservices:\n  web:\n    image: made:1\n    command: [sh, -c, 'cat /new; test -e /etc/passwd || echo gone']\n",
    );
    let up = world.run(&["up", "--no-log-prefix"]).ok();
    assert!(up.stdout.contains("new") && up.stdout.contains("gone"), "{up:?}");
    world.run(&["down"]).ok();
}

/// `pull_policy` by age: asked again only when it is due.
#[test]
fn an_image_is_refreshed_when_it_is_due() {
    if !root() {
        return;
    }
    let own = Own::new(None);
    own.load("busybox", &["r.test/x:1"]);
    let stack = |policy: &str| {
        let text = format!("name: x\nservices: {{a: {{image: 'r.test/x:1', pull_policy: {policy}}}}}\n");
        fs::write(own.at("compose.yaml"), text).unwrap();
        finish(&mut own.command(&["plan"])).stdout
    };
    let pulls = |policy: &str| stack(policy).contains("r.test/x:1");
    for (policy, fresh, old) in [
        ("missing", false, false),
        ("never", false, false),
        ("daily", false, true),
        ("weekly", false, false),
        ("every_3h", false, true),
        ("refresh", true, true),
        ("always", true, true),
    ] {
        finish(Command::new("sh").args([
            "-c",
            &format!("touch {}/*", own.at("state/images/references").display()),
        ]))
        .ok();
        assert_eq!(pulls(policy), fresh, "{policy}: {}", stack(policy));
        let touch = format!(
            "touch -d '2 days ago' {}/*",
            own.at("state/images/references").display()
        );
        finish(Command::new("sh").args(["-c", &touch])).ok();
        assert_eq!(pulls(policy), old, "{policy}: {}", stack(policy));
    }
}

/// The layers of a loaded image are where a pull finds them, and the reverse.
#[test]
fn a_load_and_a_pull_share_layers() {
    if !root() {
        return;
    }
    let registry = RealRegistry::start();
    let reference = registry.push(&images().join("nginx"), "nginx");
    let folder = tempfile::tempdir().unwrap();
    let store =
        ImageStore::open(folder.path().join("images")).with_docker_config(folder.path().join("config.json"));
    on_runtime(store.load(Input::Path(images().join("nginx")), None, |_| {})).unwrap();
    let events = std::sync::Mutex::new(Vec::new());
    on_runtime(store.pull(&reference, |event| events.lock().unwrap().push(event))).unwrap();
    let events = events.into_inner().unwrap();
    assert!(
        events
            .iter()
            .all(|event| !matches!(event, Progress::Downloaded { .. })),
        "{events:?}"
    );
    // Asked again it is one request: nothing has changed.
    let events = std::sync::Mutex::new(Vec::new());
    on_runtime(store.pull(&reference, |event| events.lock().unwrap().push(event))).unwrap();
    assert_eq!(events.into_inner().unwrap(), [Progress::UpToDate]);
}
