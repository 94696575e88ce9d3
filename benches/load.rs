//! How long `rcompose config` takes, whole process, and how much memory, by the
//! number of services: `cargo bench --bench load` (no privilege needed).

#![allow(clippy::print_stdout, reason = "its table is what it is for")]

use std::error::Error;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

/// Numbers of services, ascending: memory is the largest of all children so far.
const SIZES: [usize; 4] = [1, 70, 1_000, 10_000];

/// A stack as large ones are: anchors, merge keys, variables, short forms.
fn stack(services: usize) -> String {
    let mut text = "\
x-base: &base
  restart: always
  environment: {A: '1', B: '${V:-x}'}
  healthcheck: {test: [CMD, x], interval: 5s}
services:
"
    .to_owned();
    for n in 0..services {
        let _ = write!(
            text,
            "  s{n}:\n    <<: *base\n    image: registry.example/app:{n}\n    ports: ['{}:80']\n    volumes: [data:/data, \
             ./x:/x:ro]\n    labels: [a=b, c=d]\n    depends_on: [s{}]\n",
            n % 60_000 + 1,
            n + 1
        );
    }
    let _ = writeln!(text, "  s{services}: {{image: x}}\nvolumes: {{data: }}");
    text
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("| services | file, KiB | median of 5, ms | at best, ms | memory, MiB |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for size in SIZES {
        let folder = tempfile::tempdir()?;
        let text = stack(size);
        std::fs::write(folder.path().join("compose.yaml"), &text)?;
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            let status = Command::new(env!("CARGO_BIN_EXE_rcompose"))
                .arg("config")
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .status()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            if !status.success() {
                return Err("config fails".into());
            }
        }
        times.sort_by(f64::total_cmp);
        let memory = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() / 1024;
        println!(
            "| {size} | {} | {:.1} | {:.1} | {memory} |",
            text.len() / 1024,
            times[2],
            times[0]
        );
    }
    Ok(())
}
