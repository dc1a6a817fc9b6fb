//! A small HTTP server: metadata services and seeds of a test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What a client asked.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    /// `name: value` of each header, the name in lower case.
    pub headers: Vec<String>,
}

/// The body, or a status that says why there is none.
pub type Answer = Result<Vec<u8>, u16>;

/// What was asked, as `METHOD PATH STATUS`.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Serves until the process ends.
pub(super) fn serve(
    listener: &TcpListener,
    asked: &Asked,
    answer: &(dyn Fn(&Request) -> Answer + Sync),
) {
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            scope.spawn(move || {
                // A client that goes away is none of the server's business.
                let _ = one(stream, asked, answer);
            });
        }
    });
}

fn one(
    mut stream: TcpStream,
    asked: &Asked,
    answer: &(dyn Fn(&Request) -> Answer + Sync),
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next(), words.next());
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push(format!("{}:{value}", name.to_lowercase()));
    }
    let request = Request {
        method: method.unwrap_or_default(),
        path: path.unwrap_or_default(),
        headers,
    };
    let (status, body) = match answer(&request) {
        Ok(body) => (200, body),
        Err(status) => (status, Vec::new()),
    };
    asked
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(format!("{} {} {status}", request.method, request.path));
    let head = format!(
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.into_bytes(), body].concat())
}
