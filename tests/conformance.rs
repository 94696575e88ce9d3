//! Other people's stack files with the answers of docker compose: each case of
//! the conformance folder beside this repository, where there is one.
//!
//! `config` must print what docker compose prints, and refuse what it refuses.
//! What it accepts, loading for a run must accept too, or refuse as not
//! supported; nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rcompose::project::{self, LoadFailure, LoadRequest, Rules, config};
use rcompose::stack::{Code, DiskFiles, Severity};
use serde_json::Value as Json;

/// Cases where docker compose 2.40 is wrong or older than the specification,
/// and why ours differs.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "loader-loader-loadyamlwithenv.0+loose",
        "2.40 drops ipam.options, which the specification has",
    ),
    (
        "loader-loader-xservice.0",
        "2.40 takes a network named x-… for an extension of the mapping of networks",
    ),
    ("loader-loader-xservice.0+loose", "the same"),
    (
        "loader-reset-nestedaliasreset.pair",
        "2.40 loses !reset behind two merge keys; corrected in later versions",
    ),
    (
        "loader-reset-resetcycle.4",
        "2.40 takes services.test.other for a part of services.test; corrected in later versions",
    ),
];

/// Cases that docker compose accepts and a run refuses although the field is
/// supported, and why.
const NOT_RUNNABLE: &[(&str, &str)] = &[(
    "loader-loader-loadunitbytes.0",
    "memswap_limit without mem_limit: the engine refuses it too, when the container is made",
)];

/// Refusals in words that differ from docker compose's: what ours says instead.
const OTHER_WORDS: &[(&str, &str)] = &[
    (
        "loader-loader-servicedevicerequestcountanddeviceidsexclusive.0",
        "names the item of the list",
    ),
    (
        "loader-loader-servicedevicerequestcountinvalidstringtype.0",
        "writes the path as everywhere else",
    ),
    (
        "loader-paths-resolveadditionalcontexts.0",
        "the YAML parser's words",
    ),
    ("loader-reset-resetcycle.5", "names the two ends of the cycle"),
    (
        "tests-environment-environmentwhitespace.0",
        "writes the path as everywhere else",
    ),
];

fn request(folder: &Path) -> LoadRequest {
    let mut files = vec![PathBuf::from("compose.yaml")];
    if folder.join("override.yaml").exists() {
        files.push("override.yaml".into());
    }
    let environment = [
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/home/user"),
        ("USER", "user"),
        ("COMPOSE_PROFILES", "*"),
    ];
    LoadRequest {
        cwd: folder.to_owned(),
        files,
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..LoadRequest::default()
    }
}

fn portable(text: &str, folder: &Path) -> String {
    let up = folder.parent().unwrap_or(folder);
    text.replace(&folder.display().to_string(), "@DIR@")
        .replace(&up.display().to_string(), "@UP@")
}

fn errors(failure: &LoadFailure) -> Vec<String> {
    failure
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| diagnostic.message.clone())
        .collect()
}

/// The part of docker compose's message that says what is wrong.
fn essence(message: &str) -> &str {
    let message = message.trim();
    let message = message
        .strip_prefix("decoding failed due to the following error(s):")
        .unwrap_or(message)
        .trim();
    for prefix in ["validating ", "failed to parse "] {
        if let Some(rest) = message.strip_prefix(prefix)
            && let Some((_, rest)) = rest.split_once(": ")
        {
            return rest;
        }
    }
    message
}

#[test]
fn config_and_load_agree_with_docker_compose() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/config");
    let Ok(folder) = folder.canonicalize() else {
        println!("skipped: there is no conformance folder");
        return;
    };
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let listed = |list: &[(&str, &str)]| list.iter().any(|(listed, _)| *listed == name);
        let rules = Rules {
            consistency: !fs::read_to_string(case.join("args"))
                .is_ok_and(|args| args.contains("--no-consistency")),
            ..Rules::default()
        };
        let request = request(case);
        let ours = project::load_model(&request, rules, &DiskFiles);
        let verdict = if let Ok(expected) = fs::read_to_string(case.join("expect.json")) {
            let expected: Json = serde_json::from_str(&expected).unwrap();
            match ours {
                Err(failure) => Err(format!("refused: {}", errors(&failure).join("; "))),
                Ok((model, _)) => {
                    let text = portable(&config::json(&model).unwrap(), case);
                    let printed: Json = serde_json::from_str(&text).unwrap();
                    if printed == expected {
                        Ok("config as docker compose prints it")
                    } else {
                        Err(difference("", &expected, &printed))
                    }
                }
            }
        } else {
            let expected = fs::read_to_string(case.join("expect.err")).unwrap();
            match ours {
                Ok(_) => Err(format!("accepted, expected: {}", expected.trim())),
                Err(failure) => {
                    let ours: Vec<_> = errors(&failure)
                        .iter()
                        .map(|error| portable(error, case))
                        .collect();
                    if ours.iter().any(|error| error.contains(essence(&expected))) {
                        Ok("refused in docker compose's words")
                    } else if listed(OTHER_WORDS) {
                        Ok("refused in other words")
                    } else {
                        Err(format!("expected {:?}, says {ours:?}", essence(&expected)))
                    }
                }
            }
        };
        match verdict {
            Ok(what) => {
                if listed(EXCEPTIONS) {
                    wrong.push(format!("{name}: is excepted and agrees"));
                }
                *counts.entry(what).or_default() += 1;
            }
            Err(_) if listed(EXCEPTIONS) => *counts.entry("differs on purpose").or_default() += 1,
            Err(what) => wrong.push(format!("{name}: {what}")),
        }
        if case.join("expect.json").exists() && rules.consistency {
            match project::load(&request, &DiskFiles) {
                Ok(_) => *counts.entry("can be run").or_default() += 1,
                Err(failure)
                    if failure.diagnostics.iter().all(|diagnostic| {
                        diagnostic.severity == Severity::Warning || diagnostic.code == Code::Unsupported
                    }) =>
                {
                    *counts.entry("cannot be run yet: not supported").or_default() += 1;
                }
                Err(_) if listed(NOT_RUNNABLE) => {
                    *counts.entry("cannot be run, on purpose").or_default() += 1
                }
                Err(failure) => wrong.push(format!("{name}: load refuses: {}", errors(&failure).join("; "))),
            }
        }
    }
    println!("{} cases", cases.len());
    for (what, count) in &counts {
        println!("{count:4} {what}");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Where two values differ first.
fn difference(path: &str, expected: &Json, printed: &Json) -> String {
    if let (Json::Object(one), Json::Object(other)) = (expected, printed) {
        for (key, value) in one {
            match other.get(key) {
                None => return format!("{path}.{key} is missing: {value}"),
                Some(there) if there != value => return difference(&format!("{path}.{key}"), value, there),
                Some(_) => {}
            }
        }
        for (key, value) in other {
            if !one.contains_key(key) {
                return format!("{path}.{key} is too much: {value}");
            }
        }
    }
    format!("{path}: expected {expected}, printed {printed}")
}
