//! The loader as people meet it: errors, origins, the flags of `config`, and
//! inputs that mean harm.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rcompose::project::{self, LoadRequest, Rules, provenance};
use rcompose::stack::DiskFiles;
use tempfile::TempDir;

/// A folder with files in it.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn request(folder: &Path, environment: &[(&str, &str)]) -> LoadRequest {
    LoadRequest {
        cwd: folder.to_owned(),
        project_name: Some("demo".into()),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..LoadRequest::default()
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rcompose"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/home/user")
        .output()
        .unwrap()
}

fn out(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{arguments:?}: {err}");
    out.replace(&folder.canonicalize().unwrap().display().to_string(), "@")
        .replace(&folder.display().to_string(), "@")
}

/// Mistakes that people make, each a whole stack file.
const MISTAKES: [(&str, &str); 22] = [
    ("a key with a slip", "services:\n  web:\n    imgae: nginx\n"),
    ("a key at the wrong level", "web:\n  image: nginx\n"),
    ("tabs", "services:\n\tweb:\n\t\timage: nginx\n"),
    (
        "a list where a mapping belongs",
        "services:\n  - web:\n      image: nginx\n",
    ),
    ("no image", "services:\n  web:\n    ports: ['80:80']\n"),
    (
        "a number as a version",
        "version: 3\nservices: {web: {image: nginx}}\n",
    ),
    (
        "a port with letters",
        "services:\n  web:\n    image: nginx\n    ports: ['http:80']\n",
    ),
    (
        "a port that is none",
        "services:\n  web:\n    image: nginx\n    ports: ['80:99999']\n",
    ),
    (
        "a network that is not there",
        "services:\n  web:\n    image: nginx\n    networks: [fornt]\nnetworks:\n  front:\n",
    ),
    (
        "a volume that is not there",
        "services:\n  web:\n    image: nginx\n    volumes: ['data:/data']\n",
    ),
    (
        "a service that is not there",
        "services:\n  web:\n    image: nginx\n    depends_on: [databse]\n  database:\n    image: postgres\n",
    ),
    (
        "services that wait for each other",
        "services:\n  a:\n    image: i\n    depends_on: [b]\n  b:\n    image: i\n    depends_on: [a]\n",
    ),
    (
        "a condition that there is not",
        "services:\n  a:\n    image: i\n    depends_on: {b: {condition: healthy}}\n  b:\n    image: i\n",
    ),
    (
        "a time without a unit",
        "services:\n  web:\n    image: nginx\n    stop_grace_period: 10\n",
    ),
    (
        "a time with a strange unit",
        "services:\n  web:\n    image: nginx\n    healthcheck: {test: x, interval: 5sec}\n",
    ),
    (
        "an amount with a strange unit",
        "services:\n  web:\n    image: nginx\n    mem_limit: 1gig\n",
    ),
    (
        "a variable that is required",
        "services:\n  web:\n    image: nginx:${TAG:?which version}\n",
    ),
    (
        "a variable without an end",
        "services:\n  web:\n    image: nginx:${TAG\n",
    ),
    (
        "a key twice",
        "services:\n  web:\n    image: nginx\n    image: apache\n",
    ),
    (
        "a network mode and networks",
        "services:\n  web:\n    image: nginx\n    network_mode: host\n    networks: [default]\n",
    ),
    (
        "a health check in words of its own",
        "services:\n  web:\n    image: nginx\n    healthcheck: {test: [curl, localhost]}\n",
    ),
    (
        "many at once",
        "services:\n  web:\n    imgae: nginx\n    ports: ['x']\n    restart: 5\n  db:\n    image: postgres\n    netwroks: [a]\n    depends_on: [wbe]\n",
    ),
];

#[test]
fn the_errors_of_typical_mistakes_read_well() {
    let mut all = String::new();
    for (what, text) in MISTAKES {
        let folder = folder(&[("compose.yaml", text.as_bytes())]);
        let failure = project::load(&request(folder.path(), &[]), &DiskFiles).expect_err(what);
        writeln!(all, "## {what}\n").unwrap();
        for diagnostic in failure.diagnostics {
            all.push_str(&diagnostic.render(false));
        }
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

/// A stack whose values come in every way there is.
fn travelled() -> TempDir {
    folder(&[
        (
            "compose.yaml",
            b"include: [inc/more.yaml]\n\
            x-base: &base\n  restart: always\n  environment: {LEVEL: info}\n\
            services:\n  web:\n    <<: *base\n    image: nginx:${TAG:-1}\n    ports: ['${PORT}:80']\n    env_file: web.env\n\
            \x20 api:\n    extends: {file: common.yaml, service: app}\n    environment: {MODE: '${MODE}'}\n    stop_signal: &sig SIGINT\n\
            \x20 job:\n    image: ${COMPOSE_PROJECT_NAME}-job\n    stop_signal: *sig\n    volumes: [data:/a]\nvolumes: {data: }\n",
        ),
        (
            "compose.override.yaml",
            b"services:\n  web:\n    image: nginx:2\n    environment: {LEVEL: debug}\n  job:\n    volumes: [./d:/a]\n",
        ),
        ("common.yaml", b"services:\n  app:\n    image: app:1\n    environment: {MODE: base, KEEP: '1'}\n"),
        ("inc/more.yaml", b"services:\n  db:\n    image: postgres:${PG}\n"),
        ("inc/.env", b"PG=16\n"),
        (".env", b"PORT=8080\n# the mode\nexport MODE=prod\n"),
        ("web.env", b"# secret\nSECRET=x\n"),
    ])
}

#[test]
fn every_value_says_where_it_came_from() {
    let folder = travelled();
    let rules = Rules {
        trace: true,
        ..Rules::default()
    };
    let (model, _) =
        project::load_model(&request(folder.path(), &[("TAG", "9")]), rules, &DiskFiles).unwrap();
    let lines: Vec<String> = provenance::leaves(&model)
        .iter()
        .map(|leaf| format!("{}: {}  # {}", leaf.path, leaf.value, leaf.describe()))
        .collect();
    let text = lines
        .join("\n")
        .replace(&folder.path().display().to_string(), "@");
    insta::assert_snapshot!(text);
}

#[test]
fn explain_shows_a_value_and_what_it_overrode() {
    let folder = travelled();
    let explain = |path: &str| out(folder.path(), &["-p", "demo", "explain", path]);
    insta::assert_snapshot!(
        [
            "services.web.image",
            "services.api.environment",
            "services.db.image",
            "services.web.ports[0]"
        ]
        .map(explain)
        .join("\n")
    );
    for (path, error, hint) in [
        (
            "services.wbe",
            "nothing is at services.wbe",
            "did you mean 'web'?",
        ),
        (
            "services.web.imgae",
            "nothing is at services.web.imgae",
            "did you mean 'image'?",
        ),
        ("services.web.dns", "services.web.dns is not set", "Name servers."),
        (
            "services.web.ports.7",
            "nothing is at services.web.ports.7",
            "there are: 0",
        ),
    ] {
        let output = run(folder.path(), &["explain", path]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(text.contains(error) && text.contains(hint), "{path}: {text}");
    }
    let json = out(
        folder.path(),
        &["-p", "demo", "explain", "services.web.image", "--format", "json"],
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["value"], "nginx:2");
    assert_eq!(json[0]["origin"]["line"], 3);
    assert_eq!(json[0]["replaced"][0]["value"], "nginx:1");
}

#[test]
fn config_leaves_out_what_it_is_told_to() {
    let folder = folder(&[
        (
            "compose.yaml",
            b"services:\n  web:\n    image: nginx:${TAG:-1}\n    ports: ['${PORT:?which}:80']\n    env_file: web.env\n    \
            environment: {FROM: }\n    mem_limit: ${MEM}\n    privileged: ${YES:+true}\n    volumes: ['./${DIR}:/d', data:/data]\n    \
            models: [llm]\n    depends_on: [nobody]\n  other: {image: o}\nvolumes: {data: }\nmodels: {llm: {model: ai/x}}\n",
        ),
        ("web.env", b"A=1\n"),
    ]);
    let config = |arguments: &[&str]| {
        let mut all = vec!["-p", "demo", "config"];
        all.extend(arguments);
        out(folder.path(), &all)
    };
    insta::assert_snapshot!("variables", config(&["--variables"]));
    let json: serde_json::Value =
        serde_json::from_str(&config(&["--variables", "--format", "json"])).unwrap();
    assert_eq!(json["TAG"]["DefaultValue"], "1");
    assert_eq!(json["PORT"]["Required"], true);
    assert_eq!(json["YES"]["PresenceValue"], "true");
    let yaml = config(&["--variables", "--format", "yaml"]);
    assert!(
        yaml.contains(
            "TAG:\n    name: TAG\n    defaultvalue: \"1\"\n    presencevalue: \"\"\n    required: false\n"
        ),
        "{yaml}"
    );
    insta::assert_snapshot!("no_interpolate", config(&["--no-interpolate"]));
    // Undefined names are errors, unless that is not asked.
    assert!(!run(folder.path(), &["config", "-q"]).status.success());
    fs::write(folder.path().join(".env"), "PORT=81\nMEM=5m\nYES=1\nDIR=d\n").unwrap();
    assert!(!run(folder.path(), &["config", "-q"]).status.success());
    insta::assert_snapshot!(
        "no_resolution",
        config(&[
            "--no-consistency",
            "--no-normalize",
            "--no-path-resolution",
            "--no-env-resolution"
        ])
    );
    insta::assert_snapshot!("no_consistency", config(&["--no-consistency"]));
    assert_eq!(config(&["--no-consistency", "--models"]), "ai/x\n");
    assert_eq!(config(&["--no-consistency", "--services"]), "other\nweb\n");
    assert_eq!(config(&["--no-consistency", "--images"]), "nginx:1\no\n");
    let environment = config(&["--no-consistency", "--environment"]);
    assert!(
        environment.contains("PORT=81\n") && environment.contains("COMPOSE_PROJECT_NAME=demo\n"),
        "{environment}"
    );
    assert_eq!(config(&["--no-consistency", "--output", "written.yaml"]), "");
    let written = fs::read_to_string(folder.path().join("written.yaml")).unwrap();
    assert!(written.starts_with("name: demo\nservices:\n"), "{written}");
}

#[test]
fn a_part_of_the_stack_is_printed_with_what_it_needs() {
    let folder = folder(&[(
        "compose.yaml",
        b"services:\n  a: {image: a, depends_on: [b], secrets: [s]}\n  b: {image: b, volumes: [data:/d]}\n  c: {image: c, networks: [n]}\n\
          volumes: {data: , more: }\nnetworks: {n: }\nsecrets: {s: {file: s}}\n",
    )]);
    let text = out(folder.path(), &["-p", "demo", "config", "a"]);
    for (part, there) in [
        ("\n  a:", true),
        ("\n  b:", true),
        ("\n  c:", false),
        ("\n  n:", false),
        ("demo_data", true),
        ("demo_more", false),
        ("\n  s:", true),
    ] {
        assert_eq!(text.contains(part), there, "{part}: {text}");
    }
    let all = out(
        folder.path(),
        &["-p", "demo", "--all-resources", "config", "--volumes"],
    );
    assert_eq!(all, "data\nmore\n");
    // Nobody looks at a service that no profile switches on, but it must be there.
    let folder = self::folder(&[(
        "compose.yaml",
        b"services:\n  a: {image: a}\n  off: {image: b, profiles: [p], networks: [nobody], depends_on: {zz: {condition: service_started, required: false}}}\n  \
          lost: {image: c, profiles: [p], depends_on: [zz]}\n",
    )]);
    let text = out(folder.path(), &["-p", "demo", "config", "off"]);
    assert!(text.contains("nobody: null") && !text.contains("zz"), "{text}");
    let refused = run(folder.path(), &["-p", "demo", "config", "lost"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("no such service: zz"), "{error}");
    assert_eq!(
        out(folder.path(), &["-p", "demo", "config", "--services", "lost"]),
        "a\n"
    );
}

#[test]
fn problems_are_json_on_request() {
    let folder = folder(&[(
        "compose.yaml",
        b"services:\n  web:\n    imgae: nginx\n  db: {image: i, netwroks: []}\n",
    )]);
    let output = run(folder.path(), &["--diagnostics", "json", "config"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let list: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(list.len(), 2, "{text}");
    assert_eq!(list[0]["origin"]["line"], 3);
    assert_eq!(list[0]["severity"], "error");
    assert_eq!(list[0]["hint"], "did you mean `image`?");
    assert_eq!(list[1]["hint"], "did you mean `networks`?");
}

#[test]
fn harmful_inputs_end_in_an_error_in_time() {
    let deep = |open: &str, close: &str| format!("a: {}{}", open.repeat(50_000), close.repeat(50_000));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..40 {
        writeln!(
            bomb,
            "a{n}: &a{n} [{}]",
            vec![format!("*a{}", n - 1); 9].join(", ")
        )
        .unwrap();
    }
    let mut merges = "x0: &x0 {k: v}\n".to_owned();
    for n in 1..40 {
        writeln!(merges, "x{n}: &x{n} {{a: *x{0}, b: *x{0}, c: *x{0}}}", n - 1).unwrap();
    }
    let braces = format!(
        "services: {{a: {{image: '{}x{}'}}}}",
        "${A:-".repeat(5000),
        "}".repeat(5000)
    );
    let chain: String = (0..200)
        .map(|n| format!("  s{n}: {{extends: s{}}}\n", n + 1))
        .collect();
    let inputs: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "an alias bomb",
            bomb.into_bytes(),
            "exceeds maximum node visit limit",
        ),
        (
            "a bomb of merge keys",
            merges.into_bytes(),
            "exceeds maximum node visit limit",
        ),
        ("an anchor in itself", b"a: &a [*a]\n".to_vec(), "cycle detected"),
        ("deep lists", deep("[", "]").into_bytes(), "failed to parse"),
        ("deep mappings", deep("{a: ", "}").into_bytes(), "failed to parse"),
        (
            "deep blocks",
            (0..5000)
                .map(|n| format!("{}a:\n", " ".repeat(n)))
                .collect::<String>()
                .into_bytes(),
            "deeper than",
        ),
        (
            "deep variables",
            braces.into_bytes(),
            "invalid interpolation format",
        ),
        (
            "a long chain of extends",
            format!("services:\n{chain}  s200: {{image: i}}\n").into_bytes(),
            "extended more than",
        ),
        (
            "bytes that are no text",
            b"services: {a: {image: \xff\xfe}}".to_vec(),
            "not UTF-8",
        ),
        ("UTF-16", b"\xff\xfes\0e\0r\0v\0".to_vec(), "not UTF-8"),
        ("NUL", b"services: {a: {image: \"x\0y\"}}".to_vec(), ""),
        ("nothing but NUL", vec![0; 100_000], ""),
        ("a file of 100 MB", vec![b'#'; 100 << 20], "longer than"),
        (
            "a long line",
            [
                b"services: {a: {image: x, labels: {a: \"".to_vec(),
                vec![b'x'; 20 << 20],
            ]
            .concat(),
            "failed to parse",
        ),
        ("open brackets", vec![b'['; 1 << 20], "failed to parse"),
        (
            "include of itself",
            b"include: [compose.yaml]\nservices: {a: {image: i}}\n".to_vec(),
            "include cycle detected",
        ),
        (
            "extends of itself",
            b"services: {a: {extends: {file: compose.yaml, service: a}}}\n".to_vec(),
            "Circular reference",
        ),
    ];
    for (what, bytes, expected) in inputs {
        let folder = folder(&[("compose.yaml", &bytes)]);
        let start = Instant::now();
        let result = project::load_model(&request(folder.path(), &[]), Rules::default(), &DiskFiles);
        let took = start.elapsed();
        // In debug builds, beside other tests; what is unbounded takes for ever.
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
        let text = match result {
            Ok(_) => panic!("{what} is accepted"),
            Err(failure) => failure.to_string(),
        };
        assert!(
            text.contains(expected),
            "{what}: {}",
            text.chars().take(300).collect::<String>()
        );
        assert!(text.len() < 100_000, "{what}: a message of {} bytes", text.len());
    }
}

#[test]
fn line_ends_and_marks_change_nothing() {
    let plain =
        "services:\n  a:\n    image: i\n    command: |\n      x\n      y\n    environment:\n      - A=1\n";
    let model = |bytes: &[u8]| {
        let folder = folder(&[("compose.yaml", bytes)]);
        let (model, _) =
            project::load_model(&request(folder.path(), &[]), Rules::default(), &DiskFiles).unwrap();
        project::config::json(&model).unwrap()
    };
    let expected = model(plain.as_bytes());
    assert_eq!(model(plain.replace('\n', "\r\n").as_bytes()), expected, "CRLF");
    assert_eq!(model(format!("\u{feff}{plain}").as_bytes()), expected, "BOM");
    assert_eq!(model(plain.trim_end().as_bytes()), expected, "no line end");
    assert_eq!(
        model(format!("---\n{plain}...\n").as_bytes()),
        expected,
        "document marks"
    );
}
