//! An HTTP server of a test: answers by method and path, and keeps what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Body(Vec<u8>),
    Status(u16),
    Redirect(String),
    /// Sends without an end.
    Endless,
    /// Accepts and says nothing, until the client goes.
    Silence,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) base: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets `METHOD PATH` and the headers in lower case.
    pub(crate) fn start(answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { base, asked }
    }

    /// With these files.
    pub(crate) fn with_files(files: &[(&str, &str)]) -> Self {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let files: Vec<(String, String)> = files.iter().map(owned).collect();
        Self::start(move |request, _| {
            let path = request.split_once(' ').unwrap().1;
            let file = files.iter().find(|(name, _)| name == path);
            file.map_or(Reply::Status(404), |(_, text)| {
                Reply::Body(text.clone().into_bytes())
            })
        })
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, answer: &dyn Fn(&str, &str) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut head) = (String::new(), String::new());
    while matches!(reader.read_line(&mut line), Ok(3..)) {
        head.push_str(&std::mem::take(&mut line));
    }
    let first = head.lines().next().unwrap_or_default();
    let request = first.rsplit_once(' ').map_or(first, |(request, _)| request);
    log.lock().unwrap().push(request.to_owned());
    let close = "Connection: close\r\n";
    // The client may be gone, which is its right.
    let _ = match answer(request, &head.to_lowercase()) {
        Reply::Body(body) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.into_bytes(), body].concat())
        }
        Reply::Status(status) => {
            let head = format!("HTTP/1.1 {status} Status\r\n{close}Content-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())
        }
        Reply::Redirect(to) => {
            let head =
                format!("HTTP/1.1 302 Found\r\n{close}Location: {to}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())
        }
        Reply::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let block = [b'#'; 65536];
            while stream.write_all(&block).is_ok() {}
            Ok(())
        }
        Reply::Silence => {
            while matches!(reader.read_line(&mut line), Ok(1..)) {}
            Ok(())
        }
    };
}
