//! How long `rcompose config` takes, whole process, and how much memory, by the
//! number of services: `cargo bench --bench load` (no privilege needed). Where
//! `docker compose` is installed, its `config` runs in turn with ours.
//!
//! The stack of 70 services is as large ones of real life are: a dozen anchors,
//! merge keys, variables with defaults, health checks, limits, logging. The others
//! grow in number with shorter services.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

/// Numbers of services, and whether docker compose is asked as well: ten thousand
/// would keep it for minutes.
const SIZES: [(usize, bool); 4] = [(70, true), (1_000, true), (10_000, false), (20_000, false)];

/// Rounds of ours, and of docker compose.
const ROUNDS: usize = 9;
const ROUNDS_OF_DOCKER: usize = 3;

/// Milliseconds that a size may take; what takes longer than its goal fails.
const GOALS: [(usize, f64); 2] = [(70, 10.0), (10_000, 500.0)];

/// Twice the services may take so much longer.
const GROWTH: f64 = 2.3;

/// A stack as large ones are: anchors, merge keys, variables, short forms.
fn many(services: usize) -> String {
    let mut text = "\
x-base: &base
  restart: always
  environment: {A: '1', B: '${V:-x}'}
  healthcheck: {test: [CMD, x], interval: 5s}
services:
"
    .to_owned();
    for n in 0..services.saturating_sub(1) {
        let _ = write!(
            text,
            "  s{n}:\n    <<: *base\n    image: registry.example/app:{n}\n    ports: ['{}:80']\n    volumes: [data:/data, \
             ./x:/x:ro]\n    labels: [a=b, c=d]\n    depends_on: [s{}]\n",
            n % 60_000 + 1,
            n + 1
        );
    }
    let last = services.saturating_sub(1);
    let _ = writeln!(text, "  s{last}: {{image: x}}\nvolumes: {{data: }}");
    text
}

/// A stack of so many services as a company has them: much is said of each, and
/// most of it through anchors.
fn real(services: usize) -> String {
    let mut text = "\
name: shop
x-logging: &logging
  driver: json-file
  options: {max-size: 10m, max-file: '5', tag: '{{.Name}}'}
x-environment: &environment
  LOG_LEVEL: ${LOG_LEVEL:-info}
  TZ: Europe/Berlin
  OTEL_EXPORTER_OTLP_ENDPOINT: http://collector:4317
  DATABASE_URL: postgres://${DB_USER:-shop}:${DB_PASSWORD:-secret}@db:5432/${DB_NAME:-shop}?sslmode=disable
  REDIS_URL: redis://cache:6379/0
  FEATURE_FLAGS: ${FEATURE_FLAGS:-}
x-healthcheck: &healthcheck
  interval: 10s
  timeout: 3s
  retries: 5
  start_period: 30s
x-small: &small
  resources:
    limits: {cpus: '0.50', memory: 256M}
    reservations: {cpus: '0.10', memory: 64M}
x-large: &large
  resources:
    limits: {cpus: '2', memory: 2G}
x-waits: &waits
  db: {condition: service_healthy}
  cache: {condition: service_started}
x-service: &service
  restart: unless-stopped
  logging: *logging
  networks: [backend]
  stop_grace_period: 30s
  security_opt: ['no-new-privileges:true']
  cap_drop: [ALL]
x-web: &web
  <<: *service
  networks: [backend, edge]
  deploy: *small
services:
  db:
    <<: *service
    image: postgres:${POSTGRES_VERSION:-16}-alpine
    environment: {POSTGRES_PASSWORD_FILE: /run/secrets/db_password, POSTGRES_DB: '${DB_NAME:-shop}'}
    volumes: ['db:/var/lib/postgresql/data', './db/init:/docker-entrypoint-initdb.d:ro']
    healthcheck: {test: [CMD-SHELL, 'pg_isready -U $${POSTGRES_USER:-postgres}'], interval: 5s, retries: 10}
    secrets: [db_password]
    deploy: *large
    ulimits: {nofile: {soft: 65536, hard: 65536}}
    shm_size: 256m
  cache:
    <<: *service
    image: redis:7-alpine
    command: redis-server --appendonly yes --maxmemory ${CACHE_SIZE:-128mb}
    volumes: [cache:/data]
"
    .to_owned();
    for n in 2..services {
        let base = if n % 3 == 0 { "web" } else { "service" };
        let size = if n % 7 == 0 { "large" } else { "small" };
        let _ = write!(
            text,
            "  service-{n}:
    <<: *{base}
    image: ${{REGISTRY:-registry.example.com}}/shop/service-{n}:${{TAG:-latest}}
    build:
      context: ./services/service-{n}
      dockerfile: Dockerfile
      args: {{VERSION: '${{TAG:-latest}}', NODE_ENV: production}}
    environment:
      <<: *environment
      SERVICE_NAME: service-{n}
      PORT: {port}
    ports: ['127.0.0.1:{port}:8080', '{metrics}']
    volumes: ['./services/service-{n}/config:/etc/service:ro', 'uploads:/var/uploads']
    healthcheck:
      <<: *healthcheck
      test: [CMD, wget, -qO-, 'http://localhost:8080/health']
    depends_on: *waits
    deploy: *{size}
    labels:
      - traefik.enable=true
      - traefik.http.routers.service-{n}.rule=Host(`service-{n}.${{DOMAIN:-example.com}}`)
      - traefik.http.services.service-{n}.loadbalancer.server.port=8080
",
            port = 10_000 + n,
            metrics = 20_000 + n,
        );
    }
    text.push_str(
        "networks: {backend: {driver: bridge, internal: true}, edge: {driver: bridge}}\n\
         volumes: {db: , cache: , uploads: {driver: local}}\n\
         secrets: {db_password: {file: ./secrets/db_password}}\n",
    );
    text
}

/// One run of a program, in a process between that does nothing else, so that the
/// memory is this one child's: milliseconds and MiB.
fn run(folder: &Path, program: &[&str]) -> Result<(f64, f64), Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .arg(BETWEEN)
        .args(program)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{program:?} fails").into());
    }
    let answer = String::from_utf8(output.stdout)?;
    let (time, memory) = answer.trim().split_once(' ').ok_or("no answer")?;
    Ok((time.parse()?, memory.parse()?))
}

/// The argument of the process between.
const BETWEEN: &str = "--between";

fn between(program: &[String]) -> Result<(), Box<dyn Error>> {
    let (name, arguments) = program.split_first().ok_or("no program")?;
    let start = Instant::now();
    let status = Command::new(name)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        return Err("it fails".into());
    }
    let memory = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    println!("{time} {}", f64::from(u32::try_from(memory)?) / 1024.0);
    Ok(())
}

/// The least, the median, and the most memory.
fn summary(mut runs: Vec<(f64, f64)>) -> Option<(f64, f64, f64)> {
    runs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let memory = runs.iter().map(|run| run.1).fold(0.0, f64::max);
    Some((runs.first()?.0, runs.get(runs.len() / 2)?.0, memory))
}

fn has_docker_compose() -> bool {
    Command::new("docker")
        .args(["compose", "version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((BETWEEN, program)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return between(program);
    }
    let docker = has_docker_compose();
    println!(
        "| services | file, KiB | median of {ROUNDS}, ms | at best, ms | memory, MiB | docker compose, ms | its memory, MiB | docker / rcompose | goal |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut best = Vec::new();
    let mut missed = Vec::new();
    for (size, beside) in SIZES {
        let folder = tempfile::tempdir()?;
        let text = if size == 70 { real(size) } else { many(size) };
        std::fs::write(folder.path().join("compose.yaml"), &text)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            ours.push(run(folder.path(), &[env!("CARGO_BIN_EXE_rcompose"), "config"])?);
            if docker && beside && round < ROUNDS_OF_DOCKER {
                theirs.push(run(folder.path(), &["docker", "compose", "config"])?);
            }
        }
        let (least, median, memory) = summary(ours).ok_or("no rounds")?;
        best.push((size, least));
        let (their_time, their_memory, ratio) = match summary(theirs) {
            Some((_, theirs, memory)) => (
                format!("{theirs:.0}"),
                format!("{memory:.0}"),
                format!("{:.1}", theirs / median),
            ),
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        let goal = match GOALS.iter().find(|(goal, _)| *goal == size) {
            Some((_, goal)) if median <= *goal => format!("{goal} ms: reached"),
            Some((_, goal)) => {
                missed.push(format!("{size} services in {goal} ms"));
                format!("{goal} ms: missed")
            }
            None => "-".to_owned(),
        };
        println!(
            "| {size} | {} | {median:.1} | {least:.1} | {memory:.1} | {their_time} | {their_memory} | {ratio} | {goal} |",
            text.len() / 1024,
        );
    }
    let time_of = |size: usize| best.iter().find(|(of, _)| *of == size).map(|(_, time)| *time);
    if let (Some(half), Some(whole)) = (time_of(10_000), time_of(20_000)) {
        let growth = whole / half;
        println!("\n20,000 services take {growth:.2} times as long as 10,000 (goal: at most {GROWTH}).");
        if growth > GROWTH {
            missed.push("linear growth".to_owned());
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("missed: {}", missed.join(", ")).into())
    }
}
