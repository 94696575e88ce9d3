//! Small stacks with the answers that docker compose gives to them: mounts,
//! ports, numbers, merging and environment files.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::{MemoryFiles, request};
use crate::project::{LoadRequest, Rules, config, load_model};

/// The fragments and their answers.
const ANSWERS: &str = include_str!("answers.txt");

/// The text that `\n`, `\\` and `\xNN` in a line stand for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            other => other,
        });
    }
    bytes
}

/// What `config --format json` says of the service, or that it is refused.
fn answer(line: &str) -> Json {
    let (fragment, file) = line.split_once(" | ").unwrap_or((line, "E=1\\n"));
    let (fragment, over) = match fragment.split_once(" ++ ") {
        Some((fragment, over)) => (fragment, Some(over)),
        None => (fragment, None),
    };
    let base = format!(
        "services:\n  a:\n    image: x\n    {fragment}\n  b: {{image: x, healthcheck: {{test: x}}}}\n\
         volumes: {{data: }}\nnetworks: {{n: }}\nsecrets: {{s: {{file: ./s}}}}\n"
    );
    let mut files = vec![
        (PathBuf::from("/p/compose.yaml"), base.into_bytes()),
        (PathBuf::from("/p/e"), unescape(file)),
    ];
    if let Some(over) = over {
        let text = format!("services:\n  a:\n    {over}\n");
        files.push((PathBuf::from("/p/compose.override.yaml"), text.into_bytes()));
    }
    let files = MemoryFiles(files.into_iter().collect());
    let request = LoadRequest {
        project_name: Some("p".into()),
        ..request(&[("HOME", "/home/u")])
    };
    let Ok((model, _)) = load_model(&request, Rules::default(), &files) else {
        return Json::from("refused");
    };
    let json: Json = serde_json::from_str(&config::json(&model).unwrap()).unwrap();
    let mut service = json["services"]["a"].as_object().unwrap().clone();
    for (key, usual) in [
        ("image", json!("x")),
        ("command", Json::Null),
        ("entrypoint", Json::Null),
        ("networks", json!({"default": null})),
    ] {
        if service.get(key) == Some(&usual) {
            service.remove(key);
        }
    }
    Json::Object(service)
}

#[test]
fn docker_compose_answers_the_same() {
    let mut lines = ANSWERS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut asked, mut wrong) = (0, String::new());
    while let Some(fragment) = lines.next() {
        let expected = lines.next().and_then(|line| line.strip_prefix("= ")).unwrap();
        let expected = serde_json::from_str(expected).unwrap_or_else(|_| Json::from(expected));
        let ours = answer(fragment);
        asked += 1;
        if ours != expected {
            let _ = writeln!(wrong, "{fragment}\n  docker compose: {expected}\n  this: {ours}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(asked > 100, "only {asked} fragments were found");
}

fn model(list: &[(&str, &str)], rules: Rules) -> Result<String, String> {
    let ask = LoadRequest {
        project_name: Some("p".into()),
        services: vec!["web".into()],
        ..request(&[])
    };
    match load_model(&ask, rules, &super::files(list)) {
        Ok((model, _)) => Ok(config::yaml_as(&model, rules.interpolate).unwrap()),
        Err(failure) => Err(failure.to_string()),
    }
}

#[test]
fn a_document_is_a_mapping() {
    let stack = "services: {web: {image: x}}\n";
    for (text, refused) in [
        (stack.to_owned(), None),
        (format!("---\n{stack}...\n"), None),
        (format!("{stack}---\n{{}}\n"), None),
        (
            format!("{stack}---\n# nothing\n"),
            Some("top-level object must be a mapping"),
        ),
        (
            format!("---\n---\n{stack}"),
            Some("top-level object must be a mapping"),
        ),
        (
            format!("~\n---\n{stack}"),
            Some("top-level object must be a mapping"),
        ),
        ("---\n".to_owned(), Some("top-level object must be a mapping")),
        ("null\n".to_owned(), Some("top-level object must be a mapping")),
        (String::new(), Some("empty compose file")),
        ("# nothing\n".to_owned(), Some("empty compose file")),
        (
            format!("{stack}---\nservices: !reset null\n"),
            Some("empty compose file"),
        ),
    ] {
        let answer = model(&[("compose.yaml", &text)], Rules::default());
        match refused {
            None => assert!(answer.is_ok(), "{text:?}: {answer:?}"),
            Some(message) => {
                let error = answer.expect_err(&text);
                assert!(error.contains(message), "{text:?}: {error}");
                assert!(!error.contains('\n'), "one error is enough: {text:?}: {error}");
            }
        }
    }
}

#[test]
fn an_environment_file_can_switch_itself_off() {
    let text = "services: {web: {image: '${V:-d}', labels: {p: '${COMPOSE_FOO:-none}'}}}\n";
    let answer = |file: &str| model(&[("compose.yaml", text), (".env", file)], Rules::default()).unwrap();
    assert!(answer("V=x\n").contains("image: x\n"));
    let off = answer("V=x\nCOMPOSE_FOO=y\nCOMPOSE_DISABLE_ENV_FILE=1\n");
    assert!(off.contains("image: d\n") && off.contains("p: \"y\"\n"), "{off}");
}

#[test]
fn a_service_that_is_only_named_is_printed_unchecked() {
    let text = "services: {a: {image: x}, web: {image: y, profiles: [p], networks: [nobody], volumes: ['data:/d']}}\n";
    let list = [("compose.yaml", text)];
    let unchecked = Rules {
        check_named: false,
        ..Rules::default()
    };
    assert!(model(&list, unchecked).unwrap().contains("nobody: null\n"));
    let error = model(&list, Rules::default()).unwrap_err();
    assert!(error.contains("undefined network nobody"), "{error}");
    assert!(error.contains("undefined volume data"), "{error}");
    // A profile that is on has it checked all the same.
    let text = text.replace(", profiles: [p]", "");
    assert!(model(&[("compose.yaml", &text)], unchecked).is_err());
}

#[test]
fn templates_are_printed_as_docker_compose_prints_them() {
    let text = "services:
  web:
    image: x
    ports: ['${P:-80}:80', '9000-9001:9000-9001']
    volumes: ['${W:-data}:/w', '${A:-${B:-c}}:/c/:ro', './x:${T}', '/x${A:-/q:}:/d:z', '$C', {type: volume, source: '$S', target: /s/}]
    devices: ['${D:-/dev/x}:/b', '/dev/$A', '$A:$B:r']
    gpus: all
    volumes_from: [b]
    stop_grace_period: 90s
    networks: [n]
  b: {image: x, network_mode: host}
networks: {n: }
";
    let rules = Rules {
        interpolate: false,
        consistency: false,
        ..Rules::default()
    };
    insta::assert_snapshot!(model(&[("compose.yaml", text)], rules).unwrap());
}

#[test]
fn what_is_not_normalised_is_printed_as_it_is_typed() {
    let text = "services: {web: {image: x, networks: [n], volumes: ['data:/d'], models: [m]}}\n\
                networks: {n: }\nvolumes: {data: }\nmodels: {m: {model: ai/x}}\n";
    let rules = Rules {
        normalize: false,
        ..Rules::default()
    };
    let answer = model(&[("compose.yaml", text)], rules).unwrap();
    assert!(
        answer.ends_with("networks:\n  \"n\": {}\nvolumes:\n  data: {}\nmodels:\n  m:\n    model: ai/x\n"),
        "{answer}"
    );
}
