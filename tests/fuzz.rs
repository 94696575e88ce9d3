//! The fuzz targets without a fuzzer: their bodies with mutated inputs, seeded
//! and bounded in time. `RCOMPOSE_FUZZ_SECONDS` runs each target for longer,
//! `RCOMPOSE_FUZZ_SEED` with other inputs.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[path = "../fuzz/bodies.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets use it as well")]
mod bodies;
#[path = "../fuzz/runtime.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets use it as well")]
mod runtime;

/// No input may take longer: it is a few kilobytes at most.
const LONGEST: Duration = Duration::from_secs(3);

/// xorshift64*: the inputs of a seed are the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % sides.max(1)
    }
}

/// Pieces that mean something to some parser.
const WORDS: &[&str] = &[
    "services:\n",
    "  a:\n",
    "    image: i\n",
    "    <<: *x\n",
    "x: &x\n",
    "&x ",
    "*x",
    "!reset ",
    "!override ",
    "!!str ",
    "---\n",
    "...\n",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "#",
    "\t",
    "\r\n",
    "\u{feff}",
    "\0",
    "é",
    "𝒳",
    "$",
    "$$",
    "${",
    "${A",
    ":-",
    ":?",
    ":+",
    "-",
    "}",
    "${A:-${B:-c}}",
    "80:80",
    "[::1]:80:80/udp",
    "8000-9000",
    "/",
    "..",
    "~",
    ":ro,z",
    "1m30s",
    "64kb",
    "-1",
    "0o755",
    "1e309",
    ".inf",
    "null",
    "true",
    "yes",
    "=",
    "export ",
    "\\",
    "\\n",
    "99999999999999999999",
    "extends: a\n",
    "    extends: {service: b}\n",
    "    depends_on: [a]\n",
    "    ports: ['80:80']\n",
    "    volumes: ['./a:/a:ro']\n",
    "    environment: [A, B=c]\n",
    "    deploy: {replicas: 2}\n",
    "    healthcheck: {test: x}\n",
    "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}\n",
];

fn mutate(text: &str, corpus: &[String], dice: &mut Dice) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(7) {
            0 => {
                let word = WORDS[dice.roll(WORDS.len())].bytes();
                bytes.splice(at..at, word);
            }
            1 => {
                let end = (at + dice.roll(12)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(dice.roll(256)).unwrap();
                }
            }
            3 => {
                let end = (at + dice.roll(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = dice.roll(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => {
                // A line of another input in place of one of this.
                let other = &corpus[dice.roll(corpus.len())];
                let lines: Vec<&str> = other.split_inclusive('\n').collect();
                let line = lines.get(dice.roll(lines.len())).copied().unwrap_or_default();
                let start = bytes[..at]
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |at| at + 1);
                bytes.splice(start..start, line.bytes());
            }
            5 => {
                let start = bytes[..at]
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |at| at + 1);
                let end = bytes[at..]
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(bytes.len(), |to| at + to + 1);
                bytes.drain(start..end);
            }
            _ => {
                let word = WORDS[dice.roll(WORDS.len())].bytes();
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word);
            }
        }
        bytes.truncate(8192);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Feeds a target for some seconds; panics with the input that it fails on.
fn feed(target: fn(&str), corpus: &[String]) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("RCOMPOSE_FUZZ_SECONDS").unwrap_or(5);
    let mut dice = Dice(number("RCOMPOSE_FUZZ_SEED").unwrap_or(1).max(1) ^ 0x9E37_79B9_7F4A_7C15);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut inputs: Vec<String> = corpus.to_vec();
    let mut fed = 0_usize;
    while Instant::now() < end {
        let input = match inputs.get(fed) {
            Some(input) if fed < corpus.len() => input.clone(),
            _ => mutate(&inputs[dice.roll(inputs.len())].clone(), corpus, &mut dice),
        };
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let took = start.elapsed();
        assert!(outcome.is_ok(), "input {fed} fails:\n{input:?}");
        assert!(took < LONGEST, "input {fed} takes {took:?}:\n{input:?}");
        fed += 1;
        // Some of what was made goes on being changed.
        if fed > corpus.len() && dice.roll(8) == 0 {
            if inputs.len() < 2000 {
                inputs.push(input);
            } else {
                let at = corpus.len() + dice.roll(inputs.len() - corpus.len());
                inputs[at] = input;
            }
        }
    }
    println!("{fed} inputs in {seconds} s");
    assert!(fed > corpus.len(), "not even the corpus was read in time");
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn yaml() {
    let mut corpus = texts(&[
        include_str!("../src/project/tests/everything.yaml"),
        include_str!("../examples/quickstart/compose.yaml"),
        "services: {a: {image: i}}",
        "x: &x {restart: always}\nservices:\n  a:\n    <<: *x\n    image: i:${TAG:-1}\n    ports: ['80-90:80']\n",
        "services:\n  a: {extends: b}\n  b: {image: i, environment: [A=1, B]}\n---\nservices: {a: {command: !reset null}}\n",
        "a: &a [*a]\n",
        "services:\n  a:\n    image: i\n    build: {context: ., args: [A=1], ssh: [default]}\n    gpus: all\n    ulimits: {nofile: 5}\n",
    ]);
    // Single services of the big one: changes to small files go further.
    let lines: Vec<&str> = include_str!("../src/project/tests/everything.yaml")
        .lines()
        .collect();
    for piece in lines.chunks(6) {
        corpus.push(format!("services:\n  all:\n    image: i\n{}\n", piece.join("\n")));
    }
    feed(bodies::yaml, &corpus);
}

#[test]
fn interpolation() {
    let corpus = texts(&[
        "$A ${B} ${C:-d} ${D-e} ${E:?f} ${F?g} ${G:+h} ${H+i} $$",
        "${A:-${B:-${C}}}",
        "${A:-{\"json\": [1]}}",
        "${",
        "$",
    ]);
    feed(bodies::interpolation, &corpus);
}

#[test]
fn dotenv() {
    let corpus = texts(&[
        "A=1\nexport B=2 # c\nC: d\nD='x'\nE=\"a\\nb $A ${B:-c}\"\nF\n",
        "\u{feff}A=\"multi\nline\"\r\nB='multi\nline'\r\n",
        "A=$B\nB=${C?x}\n",
    ]);
    feed(bodies::dotenv, &corpus);
}

#[test]
fn short_forms() {
    let corpus = texts(&[
        "127.0.0.1:8000-8010:80-90/udp",
        "[::1]:6001:6001",
        "./a:/b:ro,z,rshared",
        "C:\\a:/b",
        "1h2m3.5s4ms5us6ns",
        "64.5GiB",
        "a 'b c' \"d\\\"e\" f\\ g",
        "/a/./b/../c//",
        "9223372036854775807",
    ]);
    feed(bodies::short_forms, &corpus);
}

/// A configuration that says something of everything.
const CONFIG: &str = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "hostname": "h", "process": {"terminal": true,
"consoleSize": {"width": 80, "height": 24}, "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
"args": ["a"], "env": ["A=1"], "cwd": "/", "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}], "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
"scheduler": {"policy": "SCHED_BATCH", "nice": 1}}, "mounts": [{"destination": "/proc", "type": "proc", "source": "p"},
{"destination": "/a", "source": "/b", "options": ["rbind", "rro", "rslave", "nosuid"]},
{"destination": "/t", "type": "tmpfs", "options": ["size=1k", "tmpcopyup", "mode=755"]}],
"linux": {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "user"}],
"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}], "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438}], "sysctl": {"net.core.somaxconn": "1"},
"resources": {"memory": {"limit": 100, "swap": -1}, "cpu": {"shares": 2, "quota": -1, "cpus": "0-1"}, "pids": {"limit": 5},
"blockIO": {"weight": 10}, "hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "unified": {"memory.high": "1"},
"devices": [{"allow": false, "access": "rwm"}]}, "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
"rootfsPropagation": "rslave", "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
"syscalls": [{"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 7, "valueTwo": 7, "op": "SCMP_CMP_MASKED_EQ"}]}]}}}"#;

#[test]
fn configurations_of_bundles() {
    let mut corpus = texts(&[
        CONFIG,
        "{}",
        r#"{"ociVersion": "1.0.0", "root": {"path": "x"}, "linux": {}}"#,
    ]);
    // A piece less each: changes to small files go further.
    let lines: Vec<&str> = CONFIG.lines().collect();
    for left_out in 1..lines.len() - 1 {
        let mut fewer = lines.clone();
        fewer.remove(left_out);
        corpus.push(fewer.join("\n"));
    }
    feed(runtime::oci_config, &corpus);
}

#[test]
fn messages_between_processes() {
    let corpus = texts(&[
        r#"{"warning": "x"}"#,
        r#""terminal""#,
        r#""executing""#,
        r#"{"child": 7}"#,
        r#"{"failed": {"step": "exec", "subject": "/bin/x", "errno": 2, "reason": "no such file"}}"#,
        r#"{"started": {"monitor": {"pid": 1, "start": 2}, "init": {"pid": 3, "start": 4}, "started_at": 5, "warnings": []}}"#,
    ]);
    feed(runtime::oci_message, &corpus);
}

#[test]
fn users_of_containers() {
    let corpus = texts(&[
        "web:extra\nroot:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\nextra:x:77:web\n",
        "1000:1000\n",
        "4294967296\nroot:x:0:0::/root:\n",
        "0x0:\n0x0:x:5:5::/:\n",
        "0abc\n0abc:x:4294967295:1::/:\n",
        ":\n:::::::\n",
        "-1\n",
    ]);
    feed(runtime::oci_user, &corpus);
}

#[test]
fn logs_of_containers() {
    let corpus = texts(&[
        "a1970-01-01T00:00:00.000000001Z stdout F one\n1970-01-01T00:00:00.000000002Z stderr P two\n",
        "b{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00.000000001Z\"}\n",
        "c\n\nlong lines and \u{e9}\u{20ac}\u{1d4b3} letters of many bytes\n",
        "d",
    ]);
    feed(runtime::container_log, &corpus);
}
