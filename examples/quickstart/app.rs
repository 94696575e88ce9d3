//! The quickstart's program: four small parts of one stack, on the standard
//! library alone.
//!
//! * `app store` keeps counters in `/data`, one file each (`INCR name`).
//! * `app api` counts visits in the store and answers in JSON.
//! * `app web` serves a page that shows what the api says.
//! * `app check HOST:PORT` ends with 0 when something listens there.

#![allow(clippy::print_stdout, reason = "what a container prints is its log")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["store"] => serve(7000, store),
        ["api"] => serve(8000, api),
        ["web"] => serve(8080, web),
        ["check", address] => connect(address).map(|_| ()),
        _ => Err("usage: app store|api|web|check HOST:PORT".into()),
    }
}

/// Answers connections on a port, a thread each.
fn serve(port: u16, answer: fn(TcpStream) -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on port {port}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = answer(stream) {
                println!("{error}");
            }
        });
    }
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// `INCR name` adds one to a counter; it is on disk before the answer.
fn store(stream: TcpStream) -> Result<()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(line) = lines.next().transpose()? {
        let Some(name) = line.strip_prefix("INCR ") else {
            writeln!(&stream, "ERROR unknown command")?;
            continue;
        };
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let _alone = LOCK.lock();
        let file = Path::new("/data").join(name);
        let count = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        let count = count.unwrap_or(0) + 1;
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, count.to_string())?;
        std::fs::rename(&fresh, &file)?;
        writeln!(&stream, "{count}")?;
    }
    Ok(())
}

fn api(stream: TcpStream) -> Result<()> {
    match request(&stream)?.as_str() {
        // The health check only connects.
        "" => Ok(()),
        "/visits" => {
            let store = connect("store:7000")?;
            writeln!(&store, "INCR visits")?;
            let mut count = String::new();
            BufReader::new(store).read_line(&mut count)?;
            println!("visit {}", count.trim());
            respond(
                &stream,
                "200 OK",
                "application/json",
                &format!("{{\"visits\":{}}}\n", count.trim()),
            )
        }
        _ => respond(&stream, "404 Not Found", "text/plain", "no such thing\n"),
    }
}

fn web(stream: TcpStream) -> Result<()> {
    let path = request(&stream)?;
    if path != "/" {
        return respond(&stream, "404 Not Found", "text/plain", "no such page\n");
    }
    let api = connect("api:8000")?;
    write!(&api, "GET /visits HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    BufReader::new(api).read_to_string(&mut answer)?;
    let visits: String = answer
        .rsplit("\"visits\":")
        .next()
        .unwrap_or("")
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let page = std::fs::read_to_string("/srv/site/index.html")?
        .replace("{greeting}", &std::env::var("GREETING").unwrap_or_default())
        .replace("{visits}", &visits);
    println!("served visit {visits}");
    respond(&stream, "200 OK", "text/html; charset=utf-8", &page)
}

/// Reads a request up to its empty line; its path, empty when none came.
fn request(stream: &TcpStream) -> Result<String> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(String::new());
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    Ok(first.split(' ').nth(1).unwrap_or("/").to_owned())
}

fn respond(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}
