//! An S3 server for tests: moto's, in a process of its own on loopback, and a proxy before it that makes faults.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::processes;
use crate::support::{Scene, burn};

pub const BUCKET: &str = "fleet";

/// Returns the Python that has moto: that of `BURN_MOTO`, else that of `scripts/export-test`. Prints a message if there is none.
fn python() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("BURN_MOTO") {
        return Some(python.into());
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin/python");
    if python.exists() {
        return Some(python);
    }
    println!(
        "skipped: there is no moto; scripts/export-test installs it, BURN_MOTO names the Python that has it"
    );
    None
}

/// A running server with a bucket; it ends when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts a server; `None` without moto.
    pub fn start() -> Option<Self> {
        let python = python()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "moto does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.request("PUT", &format!("/{BUCKET}"), b"").0, 200);
        Some(server)
    }

    /// Sends a request; returns status and body.
    pub fn request(&self, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let len = body.len();
        // The server looks at the form of the signature alone, until it is told to look at the key.
        let scope = "AWS4-HMAC-SHA256 Credential=test/20260420/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nAuthorization: {scope}\r\nContent-Length: {len}\r\n\r\n",
            self.port
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let end = memchr::memmem::find(&response, b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&response[9..12]).unwrap().parse().unwrap();
        (status, response[end + 4..].to_vec())
    }

    /// The content of an object.
    #[track_caller]
    pub fn object(&self, key: &str) -> Vec<u8> {
        let (status, body) = self.request("GET", &format!("/{BUCKET}/{key}"), b"");
        assert_eq!(status, 200, "{key}");
        body
    }

    /// The keys of the bucket that begin so, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let (status, body) = self.request("GET", &format!("/{BUCKET}?list-type=2&prefix={prefix}"), b"");
        assert_eq!(status, 200);
        let text = String::from_utf8(body).unwrap();
        let keys = text.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
        keys.collect()
    }

    /// The manifests under a prefix.
    pub fn manifests(&self, prefix: &str) -> Vec<Value> {
        let keys = self.keys(&format!("{prefix}/v1/_manifests/"));
        keys.iter().map(|key| serde_json::from_slice(&self.object(key)).unwrap()).collect()
    }

    /// `burn export …` that reaches the server through this port.
    pub fn burn_at(&self, port: u16, home: &Path, args: &[&str]) -> Command {
        let mut command = burn(home, args);
        command
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY");
        command
    }

    /// `burn export parquet` of a home under a prefix of the bucket.
    pub fn export_command(&self, port: u16, scene: &Scene, prefix: &str, more: &[&str]) -> Command {
        let out = format!("s3://{BUCKET}/{prefix}");
        self.burn_at(port, &scene.home(), &[&["parquet", "--json", "--out", &out], more].concat())
    }

    #[track_caller]
    pub fn export(&self, scene: &Scene, prefix: &str, more: &[&str]) -> Value {
        processes::success(&self.export_command(self.port, scene, prefix, more).output().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProxyFault {
    /// 500 without the server hearing of the request.
    Refuse,
    /// 503 after the server did what it was asked.
    RefuseAfter,
    /// The connection closes before the server hears of the request.
    Cut,
    /// The server does what it was asked, and the connection closes without an answer.
    CutAfter,
    /// The server does what it was asked, and no answer comes for longer than the client waits.
    Stall,
}

/// Decides about a request from its number, counted from 0, and its first line.
type Decide = dyn Fn(u64, &str) -> Option<ProxyFault> + Send + Sync;

/// A proxy before a server. Its thread ends with the process.
pub struct Proxy {
    pub port: u16,
    pub requests: Arc<AtomicU64>,
    /// The first lines of the requests that met a fault.
    pub faults: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(
        server: &Server,
        decide: impl Fn(u64, &str) -> Option<ProxyFault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, faults) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let decide: Arc<Decide> = Arc::new(decide);
        let server_port = server.port;
        let (counter, met) = (Arc::clone(&requests), Arc::clone(&faults));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (decide, counter, met) = (Arc::clone(&decide), Arc::clone(&counter), Arc::clone(&met));
                std::thread::spawn(move || {
                    // A client that is killed or times out closes its connection.
                    let _ = serve(client.unwrap(), server_port, &*decide, &counter, &met);
                });
            }
        });
        Self { port, requests, faults }
    }
}

/// Reads one request, with its body.
fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let len = client.read(&mut buffer)?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&buffer[..len]);
        let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let body: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |len| len.trim().parse().unwrap());
        if request.len() >= end + 4 + body {
            return Ok(request);
        }
    }
}

fn serve(
    mut client: TcpStream,
    server_port: u16,
    decide: &Decide,
    counter: &AtomicU64,
    met: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let request = read_request(&mut client)?;
    let number = counter.fetch_add(1, Ordering::SeqCst);
    let line = String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap()).into_owned();
    let fault = decide(number, &line);
    if let Some(fault) = fault {
        met.lock().unwrap().push(format!("{fault:?} {line}"));
    }
    let refusal = |status: &str| {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    match fault {
        Some(ProxyFault::Refuse) => return client.write_all(&refusal("500 Internal Server Error")),
        Some(ProxyFault::Cut) => return client.shutdown(Shutdown::Both),
        _ => {}
    }
    let end = memchr::memmem::find(&request, b"\r\n").unwrap();
    let mut server = TcpStream::connect(("127.0.0.1", server_port))?;
    server.write_all(&[&request[..end], b"\r\nConnection: close", &request[end..]].concat())?;
    let mut response = Vec::new();
    server.read_to_end(&mut response)?;
    match fault {
        Some(ProxyFault::RefuseAfter) => client.write_all(&refusal("503 Slow Down")),
        Some(ProxyFault::CutAfter) => client.shutdown(Shutdown::Both),
        Some(ProxyFault::Stall) => {
            std::thread::sleep(Duration::from_secs(4));
            client.shutdown(Shutdown::Both)
        }
        _ => {
            let end = memchr::memmem::find(&response, b"\r\n").unwrap_or(response.len());
            client.write_all(&[&response[..end], b"\r\nConnection: close", &response[end..]].concat())
        }
    }
}
