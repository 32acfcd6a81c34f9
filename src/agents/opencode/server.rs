//! Connects to an OpenCode server: an HTTP request whose answer is an endless stream of events.
//!
//! The protocol is plain HTTP/1.1, because the server listens on the machine itself. Touches only the network. Limits:
//! heads of 64 KiB, events of 64 MiB, 64 waiting events.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::interrupt::Interrupt;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read waits before it checks the interrupt.
const READ_TIMEOUT: Duration = Duration::from_millis(200);
const HEAD_MAX_BYTES: usize = 64 << 10;
const EVENT_MAX_BYTES: usize = 64 << 20;

/// The host, port and path of the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agents) struct Request {
    host: String,
    port: u16,
    path: String,
    pub last_event: Option<String>,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
}

/// An event, or why there are no more.
#[derive(Debug)]
pub(in crate::agents) enum Received {
    Event { id: Option<Vec<u8>>, data: Vec<u8> },
    Ended(String),
}

impl Request {
    /// Returns the request for a server. A URL with a path is used unchanged.
    pub(in crate::agents) fn of(
        url: &str,
        is_global: bool,
        login: Option<(&str, &str)>,
    ) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!("{url} is no http:// URL"));
        };
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let is_port = |port: &&str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| is_port(port)) {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("{url}: no port"))?),
            None => (authority, 80),
        };
        let is_header_text = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        if host.is_empty() || !is_header_text(rest) {
            return Err(format!("{url} names no host, or has characters that no URL has"));
        }
        let path = match (path, is_global) {
            ("", false) => "/event".to_owned(),
            ("", true) => "/global/event".to_owned(),
            (path, _) => format!("/{path}"),
        };
        let authorization = login
            .map(|(user, password)| format!("Basic {}", base64(format!("{user}:{password}").as_bytes())));
        Ok(Request { host: host.to_owned(), port, path, last_event: None, authorization })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}:{}\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n",
            self.path, self.host, self.port
        );
        let last = self.last_event.as_ref().filter(|id| !id.bytes().any(|byte| byte < b' ' || byte == 0x7f));
        for (name, value) in [("Last-Event-ID", last), ("Authorization", self.authorization.as_ref())] {
            if let Some(value) = value {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text + "\r\n"
    }

    /// Sends the events until the stream ends, and then the reason.
    pub(in crate::agents) fn follow(&self, sender: &Sender<Received>, interrupt: &Interrupt) {
        let error = match self.events(sender, interrupt) {
            Ok(()) => "the server has ended it".to_owned(),
            Err(error) => error.to_string(),
        };
        // The receiver is gone when the program ends.
        let _ = sender.send(Received::Ended(error));
    }

    fn events(&self, sender: &Sender<Received>, interrupt: &Interrupt) -> io::Result<()> {
        let host = self.host.trim_matches(['[', ']']);
        let mut stream = connect((host, self.port).to_socket_addrs()?)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.write_all(self.text().as_bytes())?;
        let mut reader = BufReader::new(Patient { stream, interrupt: interrupt.clone() });
        let is_chunked = read_head(&mut reader)?;
        let body: Box<dyn Read> =
            if is_chunked { Box::new(BodyChunks { reader, left: 0 }) } else { Box::new(reader) };
        let mut lines = BufReader::new(body);
        let mut event = ServerEvent::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = (EVENT_MAX_BYTES + 1) as u64;
            if lines.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.len() + event.data.len() > EVENT_MAX_BYTES {
                return Err(io::Error::other("an event of more than 64 MiB"));
            }
            if let Some(received) = event.line(&line)
                && sender.send(received).is_err()
            {
                return Ok(());
            }
        }
    }
}

/// Connects to the first address that answers. A name such as `localhost` may have an address of IPv6, at which the server does
/// not listen, before its address of IPv4.
fn connect(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut failure = io::Error::other("the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A stream that waits for bytes until the interrupt is set.
struct Patient {
    stream: TcpStream,
    interrupt: Interrupt,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
                        && !self.interrupt.is_requested() => {}
                other => return other,
            }
        }
    }
}

/// Reads status and headers. Returns whether the body comes in chunks.
fn read_head(reader: &mut impl BufRead) -> io::Result<bool> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let room = (HEAD_MAX_BYTES - before) as u64;
        if reader.by_ref().take(room).read_until(b'\n', &mut head)? == 0 {
            return Err(io::Error::other("the server's answer has no end of its head"));
        }
        if head[before..].trim_ascii().is_empty() && before > 0 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) != Some("200") {
        return Err(io::Error::other(format!("the server answers \"{status}\"")));
    }
    Ok(head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked")))
}

/// Joins the chunks of a body.
struct BodyChunks<R> {
    reader: R,
    /// Bytes of the chunk that were not yet read.
    left: u64,
}

impl<R: BufRead> Read for BodyChunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut line = Vec::new();
            if self.reader.by_ref().take(1024).read_until(b'\n', &mut line)? == 0 {
                return Ok(0);
            }
            let text = String::from_utf8_lossy(&line);
            let digits = text.split(';').next().unwrap_or_default().trim();
            // The line that ends a chunk is empty.
            if digits.is_empty() {
                continue;
            }
            self.left =
                u64::from_str_radix(digits, 16).map_err(|_| io::Error::other("a chunk without length"))?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.reader.read(&mut buffer[..room])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// An event whose lines are being read.
#[derive(Debug, Default)]
struct ServerEvent {
    id: Option<Vec<u8>>,
    data: Vec<u8>,
    has_data: bool,
}

impl ServerEvent {
    /// Adds a line. Returns the event if the line ends an event.
    fn line(&mut self, line: &[u8]) -> Option<Received> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let event = std::mem::take(self);
            return event.has_data.then_some(Received::Event { id: event.id, data: event.data });
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"id" => self.id = Some(value.to_vec()),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            _ => {}
        }
        None
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number =
            three.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_answer_is_followed_by_the_next() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = server.local_addr().unwrap();
        assert_eq!(connect([closed, open].into_iter()).unwrap().peer_addr().unwrap(), open);
        assert!(connect([closed].into_iter()).is_err());
    }

    #[test]
    fn urls_become_requests() {
        let request = Request::of("http://127.0.0.1:4096", false, None).unwrap();
        assert_eq!((&request.path[..], request.port), ("/event", 4096));
        assert_eq!(Request::of("http://[::1]:80", true, None).unwrap().path, "/global/event");
        assert_eq!(Request::of("http://host/api/x", true, None).unwrap().path, "/api/x");
        let request = Request::of("http://h", false, Some(("opencode", "pass word"))).unwrap();
        assert!(request.text().contains("Authorization: Basic b3BlbmNvZGU6cGFzcyB3b3Jk\r\n"), "{request:?}");
        for url in ["", "https://h", "http://", "http://:1", "http://h\r\nX: 1", "http://h:99999"] {
            assert!(Request::of(url, false, None).is_err(), "{url:?}");
        }
    }

    #[test]
    fn chunks_and_lines_are_put_together() {
        let body = b"5\r\ndata:\r\n9;x=1\r\n a\ndata:b\r\n4\r\n\n\nid\r\n0\r\n\r\n";
        let mut text = Vec::new();
        BodyChunks { reader: &body[..], left: 0 }.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"data: a\ndata:b\n\nid");
        let mut event = ServerEvent::default();
        let lines: [&[u8]; 4] = [b"data: a\n", b": comment\n", b"data:b\r\n", b"id: 7\n"];
        assert!(lines.iter().all(|line| event.line(line).is_none()));
        match event.line(b"\r\n") {
            Some(Received::Event { id, data }) => {
                assert_eq!((id.as_deref(), &data[..]), (Some(&b"7"[..]), &b"a\nb"[..]));
            }
            other => panic!("{other:?}"),
        }
        assert!(event.line(b"\n").is_none(), "an event without data is none");
        for head in ["", "HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert!(read_head(&mut head.as_bytes()).is_err(), "{head:?}");
        }
        assert!(BodyChunks { reader: &b"zz\r\n"[..], left: 0 }.read_to_end(&mut Vec::new()).is_err());
    }
}
