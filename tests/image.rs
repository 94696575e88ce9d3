//! Images: from registries that behave and that do not, from files, by several
//! at once, through kills.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rcompose::image::{Digest, Image, ImageError, ImageStore, Progress};
use support::registry::{Answer, Asked, FakeRegistry, RealRegistry, archive, config, copy_layout};
use support::{finish, images, root, wait_for};

const IMAGES: [&str; 5] = ["busybox", "nginx", "redis", "postgres", "pyapp"];

/// A store of a test's own.
struct Store {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Self::of(folder.path());
        Self { folder, store }
    }

    /// No credentials of whoever runs the tests.
    fn of(folder: &Path) -> ImageStore {
        ImageStore::open(folder.join("images")).with_docker_config(folder.join("config.json"))
    }

    fn pull(&self, source: &str) -> Result<Image, ImageError> {
        pull(&self.store, source, |_| {})
    }

    fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("images").join(part)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing is visible, nothing is left.
    #[track_caller]
    fn assert_empty(&self) {
        for part in ["references", "records", "layers", "trash", "blobs/sha256"] {
            assert_eq!(self.names(part), [""; 0], "{part}");
        }
    }
}

fn pull(
    store: &ImageStore,
    source: &str,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Image, ImageError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(store.pull(source, progress))
}

/// Everything below a folder, one line each, with all that an archive decides.
fn listing(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let content = if found.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if found.is_file() {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            let (links, time) = if found.is_dir() {
                (0, found.mtime())
            } else {
                (found.nlink(), found.mtime())
            };
            lines.push(format!(
                "{} {:o} {}:{} {time} {links} {} {content}",
                path.strip_prefix(folder).unwrap().display(),
                found.mode(),
                found.uid(),
                found.gid(),
                found.rdev(),
            ));
            if found.is_dir() {
                pending.push(path);
            }
        }
    }
    lines.sort();
    lines
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob_path(layout: &Path, digest: &serde_json::Value) -> PathBuf {
    layout
        .join("blobs")
        .join(digest.as_str().unwrap().replace(':', "/"))
}

fn manifest(layout: &Path) -> serde_json::Value {
    json(&blob_path(
        layout,
        &json(&layout.join("index.json"))["manifests"][0]["digest"],
    ))
}

/// The blobs of the layers of a layout's image, topmost first.
fn layer_blobs(layout: &Path) -> Vec<PathBuf> {
    let manifest = manifest(layout);
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .rev()
        .map(|layer| blob_path(layout, &layer["digest"]))
        .collect()
}

/// Layers as GNU tar unpacks them.
fn unpacked_by_tar(blobs: &[PathBuf], into: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for blob in blobs {
        let folder = into.join(blob.file_name().unwrap());
        fs::create_dir(&folder).unwrap();
        finish(
            Command::new("tar")
                .args(["--numeric-owner", "--same-owner", "-p", "-C"])
                .arg(&folder)
                .arg("-xzf")
                .arg(blob),
        )
        .ok();
        folders.push(folder);
    }
    folders
}

#[test]
fn each_test_image_comes_whole_from_a_real_registry() {
    if !root() {
        return;
    }
    let registry = RealRegistry::start();
    let store = Store::new();
    let mut compared = BTreeSet::new();
    for name in IMAGES {
        let layout = images().join(name);
        let reference = registry.push(&layout, name);
        assert_eq!(store.store.resolve(&reference).unwrap(), None);
        let started = Instant::now();
        let image = store.pull(&reference).unwrap();
        let took = started.elapsed();
        assert_eq!(store.store.resolve(&reference).unwrap().as_ref(), Some(&image));
        assert_eq!(image.id, manifest(&layout)["config"]["digest"]);
        let listed = store.store.list().unwrap();
        let listed = listed.iter().find(|one| one.reference == reference).unwrap();
        println!(
            "{name}: {} MB unpacked, {} ms",
            listed.bytes / 1_000_000,
            took.as_millis()
        );
        let blobs = layer_blobs(&layout);
        assert_eq!(image.layers.len(), blobs.len());
        for (layer, blob) in image.layers.iter().zip(blobs) {
            // The base of four images once.
            if compared.insert(layer.clone()) {
                let expected = tempfile::tempdir().unwrap();
                let expected = unpacked_by_tar(&[blob], expected.path());
                assert_eq!(listing(layer), listing(&expected[0]), "{name}");
            }
        }
    }
    let config = store
        .store
        .resolve(&format!("{}/postgres", registry.host))
        .unwrap()
        .unwrap()
        .config;
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert!(config.volumes.contains("/var/lib/postgresql/data"));
    let check = store
        .store
        .resolve(&format!("{}/pyapp", registry.host))
        .unwrap()
        .unwrap()
        .config
        .healthcheck;
    assert_eq!(check.unwrap().interval, Some(Duration::from_secs(2)));
    // One base layer for all four images of servers, one packages and one own
    // layer each, and busybox.
    assert_eq!(store.names("layers").len(), 1 + 4 * 2 + 1);
    assert_eq!(store.names("ingest"), [""; 0]);
    let mode = fs::metadata(store.folder.path().join("images"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "set-user-ID programs must be out of reach");
}

/// The programs in the images run: the layers fit on each other.
#[test]
fn the_programs_of_the_test_images_run() {
    if !root() {
        return;
    }
    let store = Store::new();
    for (name, command, says) in [
        ("busybox", "busybox echo fine", "fine"),
        ("nginx", "nginx -t 2>&1", "test is successful"),
        ("redis", "redis-server --version", "Redis server v="),
        (
            "postgres",
            "postgres --version && id postgres",
            "uid=999(postgres)",
        ),
        (
            "pyapp",
            "python3 -c 'import psycopg2, redis; print(\"fine\")' && id app",
            "uid=1000(app)",
        ),
    ] {
        let image = store
            .pull(&format!("oci:{}", images().join(name).display()))
            .unwrap();
        let lower: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.display().to_string())
            .collect();
        let at = tempfile::tempdir().unwrap();
        for part in ["root", "scratch"] {
            fs::create_dir(at.path().join(part)).unwrap();
        }
        let environment: Vec<_> = image.config.env.iter().map(|line| format!("'{line}'")).collect();
        let script = format!(
            "cd {} && mount -t tmpfs none scratch && mkdir scratch/upper scratch/work && \
             mount -t overlay -o lowerdir={},upperdir=scratch/upper,workdir=scratch/work none root && \
             mknod -m 666 root/dev/null c 1 3 && ln -s /proc/self/fd/1 root/dev/stdout && \
             ln -s /proc/self/fd/2 root/dev/stderr && mount -t proc none root/proc && \
             exec env -i {} chroot root sh -c \"$COMMAND\"",
            at.path().display(),
            lower.join(":"),
            environment.join(" "),
        );
        // A mount namespace of its own: the mounts go with it.
        let output = finish(
            Command::new("unshare")
                .args(["-m", "sh", "-ec", &script])
                .env("COMMAND", command),
        );
        assert!(output.stdout.contains(says), "{name}: {output:?}");
    }
}

fn two_layers() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..400_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    vec![
        archive(&[("etc/", b""), ("etc/base", b"base")]),
        archive(&[("data/", b""), ("data/large", &noise)]),
    ]
}

#[test]
fn pulls_at_once_share_the_work() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let (reference, layers) = registry.image("latest", &two_layers());
    let store = Store::new();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // Stores of their own, as in processes of their own.
                let store = Store::of(store.folder.path());
                assert_eq!(pull(&store, &reference, |_| {}).unwrap().layers.len(), 2);
            });
        }
    });
    for layer in layers {
        assert_eq!(registry.count(&layer), 1, "each layer is fetched once");
    }
    store.pull(&reference).unwrap();
    assert_eq!(store.names("ingest"), [""; 0]);
}

/// Not a test of its own: the process that others kill, or that dies at its
/// `PULL_EVENTS`th event.
#[test]
fn helper_that_pulls_and_is_killed() {
    let folder = std::env::var_os("PULL_FOLDER");
    let reference = std::env::var_os("PULL_REFERENCE");
    let (Some(folder), Some(reference)) = (folder, reference) else {
        return;
    };
    let last = std::env::var("PULL_EVENTS").map_or(usize::MAX, |count| count.parse().unwrap());
    let events = Mutex::new(0);
    let store = Store::of(Path::new(&folder));
    let _ = pull(&store, reference.to_str().unwrap(), |_| {
        let mut events = events.lock().unwrap();
        *events += 1;
        if *events == last {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
    });
}

#[test]
fn https_trusts_the_authorities_of_the_system() {
    if !root() {
        return;
    }
    if Command::new("openssl")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("skipped: needs openssl");
        return;
    }
    let registry = RealRegistry::start();
    let reference = registry.push(&images().join("busybox"), "busybox");
    let authority = registry.restart_with_tls();
    let store = Store::new();
    let error = store.pull(&reference).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    // The variable is read by the process that pulls.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_pulls_and_is_killed"])
        .env("PULL_FOLDER", store.folder.path())
        .env("PULL_REFERENCE", &reference)
        .env("SSL_CERT_FILE", authority)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(store.store.resolve(&reference).unwrap().is_some());
}

/// The process dies at each of its events, whatever its threads do then.
#[test]
fn a_pull_that_dies_at_any_event_is_taken_up() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|asked, mut answer| {
        // Some retries make for more events.
        if answer.body.len() > 100_000 && asked.before % 2 == 0 {
            answer.cut = Some(60_000);
        }
        answer
    });
    let (reference, _) = registry.image("latest", &two_layers());
    let mut died = 0;
    for last in 1.. {
        let store = Store::new();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_that_pulls_and_is_killed"])
            .env("PULL_FOLDER", store.folder.path())
            .env("PULL_REFERENCE", &reference)
            .env("PULL_EVENTS", last.to_string())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        if status.success() {
            break;
        }
        died += 1;
        // What is visible is whole, and the next pull completes it and cleans up.
        for layer in store.names("layers") {
            let fs = store.folder.path().join("images/layers").join(layer).join("fs");
            assert!(fs.join("etc/base").exists() || fs.join("data/large").exists());
        }
        let image = store.pull(&reference).unwrap();
        assert_eq!(image.layers.len(), 2);
        assert_eq!(store.store.resolve(&reference).unwrap(), Some(image));
        for part in ["ingest", "trash"] {
            assert_eq!(store.names(part), [""; 0], "{part}");
        }
    }
    assert!(died >= 4, "it had only {died} events");
}

#[test]
fn a_killed_pull_leaves_nothing_visible_and_is_taken_up() {
    if !root() {
        return;
    }
    let layers = two_layers();
    let registry = FakeRegistry::start(|asked, mut answer| {
        // The large layer stops half way, the first time.
        if asked.path.contains("blobs") && answer.body.len() > 100_000 && asked.before == 0 {
            answer.stall = Some(answer.body.len() / 2);
        }
        answer
    });
    let (reference, digests) = registry.image("latest", &layers);
    let store = Store::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_pulls_and_is_killed", "--nocapture"])
        .env("PULL_FOLDER", store.folder.path())
        .env("PULL_REFERENCE", &reference)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ingest = store.folder.path().join("images/ingest");
    let small = ingest.join(Digest::of(&layers[0]).hex());
    let large = ingest.join(Digest::of(&layers[1]).hex());
    wait_for("one layer whole, one half", || {
        (small.join("layer.json").exists() && large.join("fs/data/large").exists()).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    store.assert_empty();
    assert_eq!(store.store.resolve(&reference).unwrap(), None);
    let image = store.pull(&reference).unwrap();
    assert_eq!(fs::read(image.layers[1].join("etc/base")).unwrap(), b"base");
    assert_eq!(registry.count(&digests[0]), 1, "the whole layer is used again");
    assert_eq!(registry.count(&digests[1]), 2, "the half one is not");
    assert_eq!(store.names("ingest"), [""; 0]);
    assert_eq!(store.names("layers").len(), 2);
}

#[test]
fn a_dropped_pull_leaves_nothing_visible() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|asked, mut answer| {
        if asked.path.contains("blobs") && answer.body.len() > 100_000 {
            answer.stall = Some(answer.body.len() / 2);
        }
        answer
    });
    let (reference, _) = registry.image("latest", &two_layers());
    let store = Store::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        let started = tokio::sync::Notify::new();
        tokio::select! {
            result = store.store.pull(&reference, |event| {
                if let Progress::Downloaded { .. } = event { started.notify_one(); }
            }) => Some(result),
            () = started.notified() => None,
        }
    });
    assert!(result.is_none());
    // Waits for the threads that unpack: they must notice.
    drop(runtime);
    store.assert_empty();
    assert_eq!(store.store.prune(&BTreeSet::new()).unwrap().layers, 0);
    assert_eq!(store.names("ingest"), [""; 0]);
}

/// What a registry may do wrong, and what is said then.
#[test]
fn faults_of_registries_are_told_apart() {
    if !root() {
        return;
    }
    type Change = fn(&Asked, Answer) -> Answer;
    fn is_layer(asked: &Asked, answer: &Answer) -> bool {
        asked.path.contains("blobs") && answer.body.starts_with(&[0x1f, 0x8b])
    }
    let faults: Vec<(&str, Change, &str)> = vec![
        (
            "a layer is damaged",
            |asked, mut answer| {
                if is_layer(asked, &answer) {
                    let middle = answer.body.len() / 2;
                    answer.body[middle] ^= 1;
                }
                answer
            },
            "has digest sha256:",
        ),
        (
            "a layer is another",
            |asked, mut answer| {
                if is_layer(asked, &answer) {
                    // Decompresses well: only the digest tells.
                    answer.body[9] = answer.body[9].wrapping_add(1);
                }
                answer
            },
            "has digest sha256:",
        ),
        (
            "a layer is longer",
            |asked, mut answer| {
                if is_layer(asked, &answer) {
                    answer.body.push(0);
                }
                answer
            },
            "bytes instead of",
        ),
        (
            "a layer is always cut off",
            |asked, mut answer| {
                if is_layer(asked, &answer) || asked.headers.contains_key("range") {
                    answer.cut = Some(0);
                }
                answer
            },
            "blobs/sha256:",
        ),
        (
            "a layer is shorter",
            |asked, mut answer| {
                if is_layer(asked, &answer) {
                    answer.body.truncate(answer.body.len() - 9);
                } else if asked.headers.contains_key("range") {
                    answer.body.clear();
                }
                answer
            },
            "cut off after",
        ),
        (
            "a layer is missing",
            |asked, answer| {
                if is_layer(asked, &answer) {
                    Answer::status(404)
                } else {
                    answer
                }
            },
            "answers 404",
        ),
        (
            "the configuration is another",
            |asked, mut answer| {
                if asked.path.contains("blobs") && answer.body.starts_with(b"{") {
                    answer.body.push(b' ');
                }
                answer
            },
            "configuration has digest",
        ),
        (
            "the manifest is another than announced",
            |asked, answer| {
                if asked.path.contains("manifests") {
                    answer.header("Docker-Content-Digest", Digest::of(b"").to_string())
                } else {
                    answer
                }
            },
            "manifest has digest",
        ),
        (
            "the manifest is no manifest",
            |asked, answer| {
                if asked.path.contains("manifests") {
                    Answer::ok("<html>")
                } else {
                    answer
                }
            },
            "manifest is malformed",
        ),
        (
            "the manifest is of the old kind",
            |asked, answer| {
                if asked.path.contains("manifests") {
                    Answer::ok(r#"{"schemaVersion":1}"#)
                } else {
                    answer
                }
            },
            "schema 1",
        ),
        (
            "the manifest is enormous",
            |asked, answer| {
                if asked.path.contains("manifests") {
                    Answer::ok(vec![b' '; 5 << 20])
                } else {
                    answer
                }
            },
            "has more than 4194304 bytes",
        ),
        (
            "it is not there",
            |_, _| Answer::status(404),
            "not found in registry 127.0.0.1:",
        ),
        ("it is not for us", |_, _| Answer::status(403), "denies access"),
        (
            "it wants a login",
            |_, _| Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
            "it wants a login (the image may not exist, or `rcompose login 127.0.0.1:",
        ),
        (
            "it fails for good",
            |_, _| Answer::status(503),
            "answers 503 to the request for manifests/latest",
        ),
        (
            "it is overloaded",
            |_, _| Answer {
                body: br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down\u001b[2J"}]}"#.to_vec(),
                ..Answer::status(429).header("Retry-After", "3600")
            },
            "answers 429 to the request for manifests/latest: slow down[2J",
        ),
        (
            "it redirects to itself",
            |asked, _| Answer::status(307).header("Location", asked.path.clone()),
            "redirects without end",
        ),
        (
            "it redirects to nowhere",
            |_, _| Answer::status(307).header("Location", "ftp://x/"),
            "redirects to \"ftp://x/\"",
        ),
    ];
    for (what, change, says) in faults {
        let registry = FakeRegistry::start(change);
        let (reference, _) = registry.image("latest", &[archive(&[("etc/", b""), ("etc/base", b"base")])]);
        let store = Store::new();
        let error = store.pull(&reference).unwrap_err().to_string();
        assert!(error.contains(says), "{what}: {error}");
        assert!(
            error.contains(&reference),
            "{what} does not name the image: {error}"
        );
        store.assert_empty();
        // What came before a break is for the next attempt; a prune takes it away.
        let broken = matches!(what, "a layer is always cut off" | "a layer is shorter");
        let left = store.names("ingest");
        assert!(
            left.is_empty() || broken && left.iter().all(|name| name.ends_with(".part")),
            "{what}: {left:?}"
        );
        store.store.prune(&BTreeSet::new()).unwrap();
        assert_eq!(store.names("ingest"), [""; 0], "{what}");
    }
    let store = Store::new();
    let nobody = format!("127.0.0.1:{}/app", support::free_port());
    let error = store.pull(&nobody).unwrap_err().to_string();
    assert!(error.ends_with("connection refused"), "{error}");
}

#[test]
fn passing_faults_pass() {
    if !root() {
        return;
    }
    // Every answer fails once; large bodies break twice, and go on where they broke.
    let registry = FakeRegistry::start(|asked, mut answer| match asked.before {
        0 if asked.path.contains("manifests") => Answer::status(429).header("Retry-After", "0"),
        0 if answer.body.len() < 1000 => Answer::status(503),
        0 | 1 if answer.body.len() > 100_000 => {
            answer.cut = Some(50_000);
            answer
        }
        _ => answer,
    });
    let layers = two_layers();
    let (reference, digests) = registry.image("latest", &layers);
    let store = Store::new();
    let retries = Mutex::new(0);
    let image = pull(&store.store, &reference, |event| {
        if let Progress::Retrying { .. } = event {
            *retries.lock().unwrap() += 1;
        }
    })
    .unwrap();
    assert!(image.layers[0].join("data/large").exists());
    assert_eq!(*retries.lock().unwrap(), 1 + 2 + 2);
    let ranges: Vec<_> = registry
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains(&digests[1]))
        .map(|asked| asked.headers.get("range").cloned().unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=50000-", "bytes=100000-"]);

    // A server that does not know ranges sends all again.
    let registry = FakeRegistry::start(|asked, mut answer| {
        if answer.status == 206 {
            let size = answer.headers[0]
                .1
                .split('/')
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap();
            let missing = size - answer.body.len();
            answer = Answer::ok([vec![0; missing], answer.body].concat());
        } else if asked.before == 0 && answer.body.len() > 100_000 {
            answer.cut = Some(50_000);
        }
        answer
    });
    let (reference, _) = registry.image("latest", &layers);
    assert!(Store::new().pull(&reference).is_ok());
}

#[test]
fn credentials_stay_with_their_host() {
    if !root() {
        return;
    }
    let storage = FakeRegistry::start(|_, answer| answer);
    let (_, _) = storage.image("latest", &two_layers());
    let elsewhere = storage.host.clone();
    // Basic at the registry; blobs are at another host.
    let registry = FakeRegistry::start(move |asked, answer| {
        if asked.headers.get("authorization").map(String::as_str) != Some("Basic dGVzdDpzZWNyZXQ=") {
            return Answer::status(401).header("WWW-Authenticate", "Basic realm=\"test\"");
        }
        if asked.path.contains("blobs") {
            return Answer::status(307).header("Location", format!("http://{elsewhere}{}", asked.path));
        }
        answer
    });
    let (reference, _) = registry.image("latest", &two_layers());
    let store = Store::new();
    let auths = serde_json::json!({"auths": {&registry.host: {"auth": "dGVzdDpzZWNyZXQ="}}});
    fs::write(store.folder.path().join("config.json"), auths.to_string()).unwrap();
    store.pull(&reference).unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 3, "the configuration and two layers");
    assert!(
        asked
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );

    fs::write(
        store.folder.path().join("config.json"),
        r#"{"credsStore":"desktop"}"#,
    )
    .unwrap();
    let error = store.pull(&reference).unwrap_err().to_string();
    assert!(error.contains("docker-credential-desktop"), "{error}");
    let wrong = serde_json::json!({"auths": {&registry.host: {"username": "a", "password": "b"}}});
    fs::write(store.folder.path().join("config.json"), wrong.to_string()).unwrap();
    let error = store.pull(&reference).unwrap_err().to_string();
    assert!(error.ends_with("the credentials are not accepted"), "{error}");
}

#[test]
fn tokens_are_fetched_and_renewed() {
    if !root() {
        return;
    }
    // Each token is good for two requests.
    let tokens = FakeRegistry::start(|asked, _| {
        assert!(
            asked.path.contains("scope=repository%3Aapp%3Apull"),
            "{}",
            asked.path
        );
        assert!(asked.path.contains("service=the%20registry"), "{}", asked.path);
        Answer::ok(format!(r#"{{"token":"t{}"}}"#, asked.before))
    });
    let realm = format!("http://{}/token", tokens.host);
    let used = Mutex::new(std::collections::HashMap::new());
    let registry = FakeRegistry::start(move |asked, answer| {
        let token = asked.headers.get("authorization").cloned().unwrap_or_default();
        let mut used = used.lock().unwrap();
        let count = used.entry(token.clone()).or_insert(0);
        *count += 1;
        if token.starts_with("Bearer t") && *count <= 2 {
            return answer;
        }
        Answer::status(401).header(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:app:pull\""),
        )
    });
    let (reference, _) = registry.image("latest", &two_layers());
    Store::new().pull(&reference).unwrap();
    assert!(tokens.asked().len() >= 2, "renewed in the middle");
    assert!(
        tokens
            .asked()
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[test]
fn an_index_leads_to_this_machines_image() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let (reference, _) = registry.image("own", &two_layers());
    let own = registry.asked().len();
    let own_manifest = {
        let store = Store::new();
        store.pull(&reference).unwrap();
        registry.asked()[own..]
            .iter()
            .find(|asked| asked.path.contains("manifests"))
            .unwrap()
            .path
            .clone()
    };
    assert!(own_manifest.ends_with("manifests/own"));
    let architecture = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let layers = two_layers();
    let config_blob = registry.blob(&config(&layers));
    let mut descriptors = Vec::new();
    for layer in &layers {
        // Not compressed at all: also fine.
        descriptors.push(registry.blob(layer));
    }
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config_blob, "layers": descriptors});
    let mut descriptor = registry.manifest("inner", &manifest);
    descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
    let foreign = serde_json::json!({"digest": Digest::of(b"x").to_string(), "size": 1,
        "platform": {"os": "linux", "architecture": "s390x"}});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [foreign, descriptor]});
    let digest = registry.manifest("multi", &index)["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let store = Store::new();
    let by_tag = store.pull(&format!("{}/app:multi", registry.host)).unwrap();
    let by_digest = store.pull(&format!("{}/app@{digest}", registry.host)).unwrap();
    assert_eq!(by_tag.id, by_digest.id);
    assert_eq!(by_tag.id, Digest::of(&config(&layers)).to_string());

    let only = serde_json::json!({"schemaVersion": 2, "manifests": [foreign]});
    registry.manifest("foreign", &only);
    let error = store
        .pull(&format!("{}/app:foreign", registry.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("only for linux/s390x"), "{error}");
    // An image that does not say so before its configuration.
    let foreign = String::from_utf8(config(&layers))
        .unwrap()
        .replace(architecture, "s390x");
    let foreign = registry.blob(foreign.as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": foreign, "layers": descriptors});
    registry.manifest("single", &manifest);
    let error = store
        .pull(&format!("{}/app:single", registry.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("only for linux/s390x"), "{error}");
    let wrong = Digest::of(b"something else");
    let error = store
        .pull(&format!("{}/app@{wrong}", registry.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn a_hostile_layer_leaves_nothing() {
    if !root() {
        return;
    }
    let mut evil = archive(&[("etc/", b""), ("ok", b"x")]);
    let at = evil.windows(2).position(|window| window == b"ok").unwrap();
    evil[at..at + 12].copy_from_slice(b"../../victim");
    let header = &mut evil[at..at + 512];
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let registry = FakeRegistry::start(|_, answer| answer);
    let (reference, _) = registry.image("latest", &[two_layers()[1].clone(), evil]);
    let store = Store::new();
    let error = store.pull(&reference).unwrap_err().to_string();
    assert!(
        error.contains("entry \"../../victim\" has .. in its path"),
        "{error}"
    );
    store.assert_empty();
    assert!(!store.folder.path().join("images/ingest/victim").exists());
}

/// Layers that depend on what is below them are not shared with other images.
#[test]
fn layers_without_folder_entries_keep_the_owners_below() {
    if !root() {
        return;
    }
    let base = |mode| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        builder.append_data(&mut header, "tmp/", &b""[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let top = archive(&[("tmp/file", b"x")]);
    let registry = FakeRegistry::start(|_, answer| answer);
    let store = Store::new();
    let mode = |image: &Image| {
        fs::metadata(image.layers[0].join("tmp"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    let one = store
        .pull(&registry.image("one", &[base(0o1777), top.clone()]).0)
        .unwrap();
    let two = store
        .pull(&registry.image("two", &[base(0o700), top.clone()]).0)
        .unwrap();
    assert_eq!((mode(&one), mode(&two)), (0o1777, 0o700));
    assert_ne!(one.layers[0], two.layers[0]);
    let whiteout = archive(&[(".wh..wh..opq", b""), ("new", b"x")]);
    let three = store
        .pull(&registry.image("three", &[base(0o700), top.clone(), whiteout]).0)
        .unwrap();
    assert_eq!(three.layers.len(), 1, "what a layer hides wholly is not mounted");
    let again = store
        .pull(&registry.image("four", &[base(0o755), base(0o700), base(0o755)]).0)
        .unwrap();
    assert_eq!(again.layers.len(), 2, "overlayfs takes each folder once");
}

#[test]
fn local_sources_of_every_kind_are_the_same_image() {
    if !root() {
        return;
    }
    let layout = images().join("busybox");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tar = |archive: &str, from: &Path, flags: &str| {
        finish(
            Command::new("tar")
                .arg(flags)
                .arg(at(archive))
                .arg("-C")
                .arg(from)
                .arg("."),
        )
        .ok();
    };
    tar("layout.tar", &layout, "-cf");
    tar("layout.tar.gz", &layout, "-czf");
    // What `docker save` wrote before version 25: a folder each, links for what occurs twice.
    let manifest = manifest(&layout);
    let saved = at("saved");
    fs::create_dir_all(saved.join("one")).unwrap();
    fs::create_dir_all(saved.join("two")).unwrap();
    fs::copy(
        blob_path(&layout, &manifest["config"]["digest"]),
        saved.join("config.json"),
    )
    .unwrap();
    let blob = blob_path(&layout, &manifest["layers"][0]["digest"]);
    let plain = finish(
        Command::new("sh")
            .args(["-c", "exec gzip -dc < \"$0\" > \"$1\""])
            .arg(blob)
            .arg(saved.join("one/layer.tar")),
    );
    plain.ok();
    std::os::unix::fs::symlink("../one/layer.tar", saved.join("two/layer.tar")).unwrap();
    let entry = |tag: &str, layer: &str| serde_json::json!({"Config": "config.json", "RepoTags": [tag], "Layers": [layer]});
    let list = serde_json::json!([entry("busybox:latest", "two/layer.tar")]);
    fs::write(saved.join("manifest.json"), list.to_string()).unwrap();
    tar("saved.tar", &saved, "-cf");
    tar("saved.tar.gz", &saved, "-czf");
    let list = serde_json::json!([entry("a:1", "one/layer.tar"), entry("b:2", "one/layer.tar")]);
    fs::write(saved.join("manifest.json"), list.to_string()).unwrap();
    tar("several.tar", &saved, "-cf");
    // What it has written since: an OCI layout with a manifest.json.
    let modern = at("modern");
    copy_layout(&layout, &modern);
    let name = |digest: &serde_json::Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let list = serde_json::json!([{"Config": name(&manifest["config"]["digest"]), "RepoTags": null,
        "Layers": [name(&manifest["layers"][0]["digest"])]}]);
    fs::write(modern.join("manifest.json"), list.to_string()).unwrap();
    tar("modern.tar", &modern, "-cf");

    let expected = tempfile::tempdir().unwrap();
    let expected = listing(&unpacked_by_tar(&layer_blobs(&layout), expected.path())[0]);
    for source in [
        format!("oci:{}", layout.display()),
        format!("oci:{}:latest", layout.display()),
        format!("oci-archive:{}", at("layout.tar").display()),
        format!("oci-archive:{}:latest", at("layout.tar.gz").display()),
        format!("docker-archive:{}", at("saved.tar").display()),
        format!("docker-archive:{}:busybox", at("saved.tar.gz").display()),
        format!("docker-archive:{}:b:2", at("several.tar").display()),
        format!("docker-archive:{}", at("modern.tar").display()),
    ] {
        let store = Store::new();
        assert_eq!(store.store.resolve(&source).unwrap(), None);
        let image = store.pull(&source).unwrap();
        assert_eq!(image.id, manifest["config"]["digest"], "{source}");
        assert_eq!(listing(&image.layers[0]), expected, "{source}");
        assert_eq!(store.store.resolve(&source).unwrap(), Some(image), "{source}");
        assert_eq!(store.names("ingest"), [""; 0]);
    }
    let store = Store::new();
    for (source, says) in [
        (
            format!("oci:{}:other", layout.display()),
            "has no image \"other\", only latest",
        ),
        (format!("oci:{}", at("missing").display()), "does not exist"),
        (
            format!("oci:{}", folder.path().display()),
            "is not an OCI image layout",
        ),
        (
            format!("oci:{}", at("layout.tar").display()),
            "is not a directory",
        ),
        (format!("oci-archive:{}", layout.display()), "is not a file"),
        (
            format!("oci-archive:{}", at("saved.tar").display()),
            "is not an OCI image layout",
        ),
        (
            format!("oci-archive:{}", layout.join("index.json").display()),
            "cannot be read",
        ),
        (
            format!("docker-archive:{}", at("layout.tar").display()),
            "is not a docker archive",
        ),
        (
            format!("docker-archive:{}", at("several.tar").display()),
            "holds several images (a:1, b:2)",
        ),
        (
            format!("docker-archive:{}:c", at("several.tar").display()),
            "has no image c:latest, only a:1, b:2",
        ),
        (
            format!("rootfs:{}", at("layout.tar").display()),
            "is not a directory",
        ),
        (format!("rootfs:{}", at("missing").display()), "does not exist"),
        ("rootfs:relative".to_owned(), "is not an absolute path"),
    ] {
        let error = store.pull(&source).unwrap_err().to_string();
        assert!(error.contains(says), "{source}: {error}");
    }
}

#[test]
fn a_changed_layout_or_archive_is_imported_again() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    copy_layout(&images().join("busybox"), &layout);
    let source = format!("oci:{}", layout.display());
    let store = Store::new();
    let before = store.pull(&source).unwrap();
    fs::remove_dir_all(&layout).unwrap();
    assert_eq!(
        store.store.resolve(&source).unwrap().as_ref(),
        Some(&before),
        "the import outlives its source"
    );
    copy_layout(&images().join("redis"), &layout);
    assert_eq!(store.store.resolve(&source).unwrap(), None);
    let after = store.pull(&source).unwrap();
    assert_ne!(after.id, before.id);
    assert_eq!(
        store.store.get(&before.id).unwrap().unwrap().layers,
        before.layers,
        "containers may still use it"
    );

    let archive = folder.path().join("layout.tar");
    let write = |name: &str| {
        finish(
            Command::new("tar")
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(images().join(name))
                .arg("."),
        )
        .ok();
    };
    write("busybox");
    let source = format!("oci-archive:{}", archive.display());
    let before = store.pull(&source).unwrap();
    assert!(store.store.resolve(&source).unwrap().is_some());
    write("redis");
    assert_eq!(store.store.resolve(&source).unwrap(), None);
    assert_ne!(store.pull(&source).unwrap().id, before.id);
}

/// A damaged layout: what its digests say counts, not what lies there.
#[test]
fn a_damaged_layout_is_refused() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    copy_layout(&images().join("busybox"), &layout);
    let source = format!("oci:{}", layout.display());
    let store = Store::new();
    let manifest = manifest(&layout);
    let blob = blob_path(&layout, &manifest["layers"][0]["digest"]);
    let whole = fs::read(&blob).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    fs::write(&blob, &damaged).unwrap();
    assert!(
        store
            .pull(&source)
            .unwrap_err()
            .to_string()
            .contains("has digest sha256:")
    );
    fs::write(&blob, &whole[..middle]).unwrap();
    assert!(
        store
            .pull(&source)
            .unwrap_err()
            .to_string()
            .contains("bytes instead of")
    );
    fs::remove_file(&blob).unwrap();
    assert!(
        store
            .pull(&source)
            .unwrap_err()
            .to_string()
            .contains("lacks blobs/sha256/")
    );
    store.assert_empty();
    fs::write(&blob, &whole).unwrap();
    store.pull(&source).unwrap();
}

#[test]
fn a_root_file_system_is_taken_as_it_is() {
    let store = Store::new();
    let image = store.store.resolve("rootfs:/").unwrap().unwrap();
    assert_eq!(image.layers, [Path::new("/")]);
    assert!(image.rootfs && image.config.cmd.is_empty());
    assert!(image.config.env[0].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(store.pull("rootfs:/").unwrap(), image);
    assert_ne!(store.store.resolve("rootfs:/usr").unwrap().unwrap().id, image.id);
    assert!(!store.folder.path().join("images").exists(), "nothing is stored");
}

#[test]
fn pruning_keeps_what_is_named_and_what_is_used() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let shared = archive(&[("shared", b"s")]);
    let (one, _) = registry.image("one", &[shared.clone(), archive(&[("one", b"1")])]);
    let (two, _) = registry.image("two", &[shared.clone(), archive(&[("two", b"22")])]);
    let (three, _) = registry.image("three", &[archive(&[("three", b"333")])]);
    let store = Store::new();
    store.pull(&one).unwrap();
    let kept = store.pull(&two).unwrap();
    store.pull(&three).unwrap();
    let references: Vec<_> = store
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|listed| listed.reference)
        .collect();
    assert_eq!(references, [one.clone(), three.clone(), two.clone()]);
    assert_eq!(store.store.prune(&BTreeSet::new()).unwrap().layers, 0);
    assert!(store.store.remove(&two).unwrap());
    assert!(!store.store.remove(&two).unwrap());
    assert!(store.store.remove(&three).unwrap());
    assert_eq!(store.store.resolve(&two).unwrap(), None);
    // What a killed process may have left.
    let at = |name: &str| store.folder.path().join("images").join(name);
    fs::create_dir_all(at("ingest/0123/fs/deep")).unwrap();
    fs::write(at("records/.new.1.2.3"), "{").unwrap();
    fs::create_dir_all(at("trash/.new.4.5.6/fs")).unwrap();

    let pruned = store.store.prune(&BTreeSet::from([kept.id.clone()])).unwrap();
    assert_eq!((pruned.images, pruned.layers, pruned.bytes), (1, 1, 3));
    assert_eq!(store.store.get(&kept.id).unwrap().unwrap().layers, kept.layers);
    for part in ["ingest", "trash"] {
        assert_eq!(store.names(part), [""; 0]);
    }
    assert_eq!(store.names("records").len(), 2);
    let pruned = store.store.prune(&BTreeSet::new()).unwrap();
    assert_eq!(
        (pruned.images, pruned.layers),
        (1, 1),
        "the shared layer stays with the other image"
    );
    assert!(store.store.resolve(&one).unwrap().is_some());
    store.store.remove(&one).unwrap();
    store.store.prune(&BTreeSet::new()).unwrap();
    store.assert_empty();
}

/// After a power failure a record may be empty: then the image is not here.
#[test]
fn damaged_records_are_fetched_again() {
    if !root() {
        return;
    }
    let registry = FakeRegistry::start(|_, answer| answer);
    let (reference, _) = registry.image("latest", &two_layers());
    let store = Store::new();
    let image = store.pull(&reference).unwrap();
    for part in ["references", "records", "blobs/sha256"] {
        for name in store.names(part) {
            fs::write(store.folder.path().join("images").join(part).join(name), "").unwrap();
        }
        assert_eq!(store.store.resolve(&reference).unwrap(), None, "{part}");
        assert_eq!(store.pull(&reference).unwrap(), image, "{part}");
    }
    fs::remove_dir_all(&image.layers[0]).unwrap();
    assert_eq!(store.store.resolve(&reference).unwrap(), None);
    assert_eq!(store.pull(&reference).unwrap(), image);
    assert!(image.layers[0].join("data/large").exists());
}
