//! A disk that is full at any moment of what writes to the store: `load`,
//! `import`, `save`, and the packing that a push needs.

use std::path::Path;
use std::process::Command;

use super::support::registry::{RealRegistry, archive};
use super::support::{finish, images, root};

/// Data that does not compress.
fn noise(seed: u32) -> Vec<u8> {
    (0..100_000u32)
        .flat_map(|n| n.wrapping_add(seed).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// Runs a script with `$D` on a small tmpfs, and `$R` for us with the store in
/// it. `room` gives it more room.
fn on_small_disk(kilobytes: usize, files: &Path, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "set -e; D={0}; F={1}; R='{2} --state-root {0}'
         room() {{ mount -o remount,size=64m $D; }}
         mount -t tmpfs -o size={kilobytes}k none $D
         {script}",
        folder.path().display(),
        files.display(),
        env!("CARGO_BIN_EXE_rcompose"),
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &text])
        .env("HOME", "/nonexistent");
    finish(&mut command).ok().stdout
}

/// Fails or not at first; with room it is done, the store is whole, and a prune
/// leaves only what is named.
#[test]
fn loads_and_imports_survive_a_full_disk() {
    if !root() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    std::fs::write(
        files.path().join("layer.tar"),
        archive(&[("a", &noise(1)), ("b/", b"")]),
    )
    .unwrap();
    let made = "
        $R image import $F/layer.tar made:1 >/dev/null
        $R image save -o $F/image.tar made:1";
    on_small_disk(64 << 10, files.path(), made);
    for size in (60..2000).step_by(160) {
        for work in [
            "image import $F/layer.tar made:1",
            "image load -q -i $F/image.tar",
            "image load -q < $F/image.tar",
        ] {
            let script = format!(
                "TMPDIR=$D $R {work} >/dev/null 2>$F/error && first=ok || first=$(wc -l < $F/error)
                 room
                 $R image ls -q >/dev/null
                 $R {work} >/dev/null
                 $R image prune -f >/dev/null
                 $R image save -o $D/again.tar made:1
                 echo $first $(ls $D/images/layers | wc -l) $(ls $D/images/ingest | wc -l)"
            );
            let told = on_small_disk(size, files.path(), &script);
            let words: Vec<&str> = told.split_whitespace().collect();
            assert!(words[0] == "ok" || words[0] != "0", "it says why: {told}");
            assert_eq!(words[1..], ["1", "0"], "{size} KiB, {work}: {told}");
        }
    }
}

/// An archive that has no room is not there; a push that has none for packing
/// fails, and with room it is done.
#[test]
fn saves_and_pushes_survive_a_full_disk() {
    if !root() {
        return;
    }
    let registry = RealRegistry::start();
    let layout = images().join("busybox");
    for size in (100..4600).step_by(450) {
        let files = tempfile::tempdir().unwrap();
        let name = format!("{}/full:{size}", registry.host);
        let script = format!(
            "$R image pull -q oci:{0} >/dev/null 2>&1 || {{ room; $R image pull -q oci:{0} >/dev/null; }}
             $R image tag oci:{0} {name}
             $R image save -o $D/archive.tar {name} 2>/dev/null || test ! -e $D/archive.tar
             $R image push -q {name} >/dev/null 2>&1 || first=failed
             rm -f $D/archive.tar
             room
             $R image push -q {name}
             $R image rm {name} >/dev/null
             $R image pull -q {name} >/dev/null
             $R image prune -f >/dev/null
             ls -A $D | grep -v -e images -e run -e networks -e volumes -e stacks | wc -l
             ls $D/images/ingest | wc -l",
            layout.display()
        );
        let told = on_small_disk(size, files.path(), &script);
        let lines: Vec<&str> = told.lines().skip(1).collect();
        assert_eq!(lines, ["0", "0"], "{size} KiB: {told}");
    }
}
