//! The program of the test images: a small HTTP server that can be told to fail. Standard library only, so that one
//! `rustc` call makes a static binary.
//!
//! `/` version and pod name; `/health`, `/ready` 200 or 500 and 503; `/fail`, `/unready`, `/recover` change what those
//! answer; `/exit?code=N` ends the process; `/eat-memory` allocates until something stops it; `/slow?ms=N` waits.
//! `VERSION` names the version (`v2.2.0` is never ready), `PORT` the port (3000).

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static HEALTHY: AtomicBool = AtomicBool::new(true);
static READY: AtomicBool = AtomicBool::new(true);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

extern "C" fn end(_: i32) {
    // SAFETY: _exit is safe to call from a signal handler.
    unsafe { _exit(0) }
}

fn main() {
    // The first process of a namespace ignores signals it does not handle.
    // SAFETY: the handler only calls _exit.
    unsafe {
        signal(15, end);
        signal(2, end);
    }
    let version = std::env::var("VERSION").unwrap_or_else(|_| "v0".to_owned());
    if version == "v2.2.0" {
        READY.store(false, Ordering::SeqCst);
    }
    let port = std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(3000u16);
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("bind");
    println!("web {version} listening on {port}");
    for stream in listener.incoming().flatten() {
        let version = version.clone();
        std::thread::spawn(move || serve(stream, &version));
    }
}

fn serve(mut stream: TcpStream, version: &str) {
    let Ok(copy) = stream.try_clone() else { return };
    let mut reader = BufReader::new(copy);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut close = line.contains("HTTP/1.0");
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            close |= header.to_ascii_lowercase().starts_with("connection: close");
            if header.trim().is_empty() {
                break;
            }
        }
        let target = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
        let (code, body) = answer(&target, version);
        println!("{} {code}", line.trim());
        let keep = if close { "close" } else { "keep-alive" };
        let text = format!(
            "HTTP/1.1 {code} x\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {keep}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(text.as_bytes()).is_err() || close {
            return;
        }
    }
}

fn answer(target: &str, version: &str) -> (u16, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok()).unwrap_or(0)
    };
    let ok = |text: &str| (200, format!("{text}\n"));
    match path {
        "/health" if HEALTHY.load(Ordering::SeqCst) => ok("healthy"),
        "/health" => (500, "unhealthy\n".to_owned()),
        "/ready" if READY.load(Ordering::SeqCst) => ok("ready"),
        "/ready" => (503, "not ready\n".to_owned()),
        "/fail" => {
            HEALTHY.store(false, Ordering::SeqCst);
            ok("failing from now on")
        }
        "/unready" => {
            READY.store(false, Ordering::SeqCst);
            ok("not ready from now on")
        }
        "/recover" => {
            HEALTHY.store(true, Ordering::SeqCst);
            READY.store(version != "v2.2.0", Ordering::SeqCst);
            ok("recovered")
        }
        "/exit" => std::process::exit(i32::try_from(number("code")).unwrap_or(1)),
        "/eat-memory" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                // Written to, or the kernel would not count it.
                hoard.push(vec![1; 16 << 20]);
                if hoard.len() > 4096 {
                    return ok("nothing stopped me");
                }
            }
        }
        "/slow" => {
            std::thread::sleep(Duration::from_millis(number("ms")));
            ok("at last")
        }
        "/env" => {
            let mut lines: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            lines.sort();
            ok(&lines.join("\n"))
        }
        _ => {
            let pod = std::env::var("HOSTNAME").unwrap_or_default();
            ok(&format!("web {version} {pod}"))
        }
    }
}
