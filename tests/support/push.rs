//! A registry that can be pushed to, and that makes it hard once for each fault:
//! 429, 413, a connection that breaks in the middle of an upload.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcompose::image::Digest;

/// What it takes in one request; more is a 413.
const LIMIT: usize = 17 << 20;

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
    seen: BTreeSet<&'static str>,
    /// How often each token was shown; `None` asks for none.
    tokens: Option<HashMap<String, usize>>,
}

/// Requests that a token is good for.
const GOOD_FOR: usize = 3;

/// The registry. Its threads end with the process.
pub struct PushRegistry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    state: Arc<Mutex<State>>,
}

impl PushRegistry {
    /// Starts an empty one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            host: listener.local_addr().unwrap().to_string(),
            state: Arc::default(),
        };
        let state = Arc::clone(&this.state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    // A client that goes away is none of our business.
                    let _ = serve(stream?, &state);
                    std::io::Result::Ok(())
                });
            }
        });
        this
    }

    /// Starts one that wants tokens, each of which is good for a few requests.
    pub fn with_tokens() -> Self {
        let this = Self::start();
        this.state.lock().unwrap().tokens = Some(HashMap::new());
        this
    }

    /// How many tokens were shown.
    pub fn tokens(&self) -> usize {
        self.state.lock().unwrap().tokens.as_ref().map_or(0, HashMap::len)
    }

    /// The digest of the manifest under a tag.
    pub fn manifest(&self, tag: &str) -> String {
        Digest::of(&self.state.lock().unwrap().manifests[tag]).to_string()
    }

    /// The faults that were met.
    pub fn seen(&self) -> BTreeSet<&'static str> {
        self.state.lock().unwrap().seen.clone()
    }
}

impl State {
    /// What is answered in place of an answer: a token to who asks for one, a
    /// challenge to who has none that is good any more.
    fn refusal(&mut self, path: &str, token: &str, host: &str) -> Option<String> {
        let used = self.tokens.as_mut()?;
        if path.starts_with("/token") {
            let body = format!(r#"{{"token":"t{}"}}"#, used.len());
            return Some(format!(
                "HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
        if token.starts_with("Bearer t") {
            let count = used.entry(token.to_owned()).or_insert(0);
            *count += 1;
            if *count <= GOOD_FOR {
                return None;
            }
        }
        Some(format!(
            "HTTP/1.1 401 X\r\nContent-Length: 0\r\nWWW-Authenticate: Bearer \
             realm=\"http://{host}/token\",service=\"s\",scope=\"repository:app:pull,push\"\r\n\r\n"
        ))
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let mut length = 0;
        let mut range = None;
        let mut token = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().unwrap(),
                "authorization" => token = value.trim().to_owned(),
                "content-range" => {
                    range = value
                        .trim()
                        .split('-')
                        .next()
                        .map(|from| from.parse::<usize>().unwrap())
                }
                _ => {}
            }
        }
        let upload = path.split('?').next().unwrap().to_owned();
        // Once in the middle of a piece the connection breaks.
        let cut = method == "PATCH" && length <= LIMIT && state.lock().unwrap().seen.insert("cut");
        let mut body = vec![0; if cut { length / 3 } else { length }];
        reader.read_exact(&mut body)?;
        if cut {
            state
                .lock()
                .unwrap()
                .uploads
                .get_mut(&upload)
                .unwrap()
                .extend(body);
            return Ok(());
        }
        let mut state = state.lock().unwrap();
        if let Some(refused) = state.refusal(&path, &token, &writer.local_addr()?.to_string()) {
            writer.write_all(refused.as_bytes())?;
            continue;
        }
        let (status, headers, body) = answer(&mut state, &method, &path, &upload, range, body);
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        writer.write_all(head.as_bytes())?;
        if method != "HEAD" {
            writer.write_all(&body)?;
        }
    }
}

fn answer(
    state: &mut State,
    method: &str,
    path: &str,
    upload: &str,
    range: Option<usize>,
    body: Vec<u8>,
) -> (u16, String, Vec<u8>) {
    let last = path.rsplit('/').next().unwrap().to_owned();
    let plain = |status| (status, String::new(), Vec::new());
    match method {
        "POST" => {
            if state.seen.insert("429") {
                return (429, "Retry-After: 0\r\n".to_owned(), Vec::new());
            }
            let place = format!("/v2/app/blobs/uploads/{}", state.uploads.len());
            state.uploads.insert(place.clone(), Vec::new());
            (202, format!("Location: {place}?s=1\r\n"), Vec::new())
        }
        "PATCH" if body.len() > LIMIT => {
            state.seen.insert("413");
            plain(413)
        }
        "PATCH" => {
            let have = state.uploads.get_mut(upload).unwrap();
            if range.unwrap_or(0) != have.len() {
                return plain(416);
            }
            have.extend(body);
            let headers = format!("Location: {upload}?s=2\r\nRange: 0-{}\r\n", have.len() - 1);
            (202, headers, Vec::new())
        }
        "PUT" if path.contains("/uploads/") => {
            let mut data = state.uploads.remove(upload).unwrap();
            data.extend(body);
            let digest = path.rsplit("digest=").next().unwrap().replace("%3A", ":");
            if Digest::of(&data).to_string() != digest {
                return plain(400);
            }
            state.blobs.insert(digest, data);
            plain(201)
        }
        "PUT" => {
            state
                .manifests
                .insert(Digest::of(&body).to_string(), body.clone());
            state.manifests.insert(last, body);
            plain(201)
        }
        _ if path.contains("/uploads/") => match state.uploads.get(upload) {
            Some(have) => (
                204,
                format!("Location: {upload}?s=3\r\nRange: 0-{}\r\n", have.len() - 1),
                Vec::new(),
            ),
            None => plain(404),
        },
        _ => match state.blobs.get(&last).or(state.manifests.get(&last)) {
            Some(body) => (200, String::new(), body.clone()),
            None => plain(404),
        },
    }
}
