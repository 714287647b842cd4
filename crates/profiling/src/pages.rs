//! The pages below `/debug/pprof/`, as Go's `net/http/pprof` has them. Who may see them is asked before.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode, Uri};

use crate::collect::{ProfileError, profile};
use crate::profile::functions;
use crate::program::mappings;

/// What the pages are below.
pub const PREFIX: &str = "/debug/pprof";

const USUAL: u64 = 30;
/// The longest profile: nobody's connection is held for longer.
const LONGEST: u64 = 300;
const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

/// What is here, and what else Go has.
const HERE: [(&str, &str); 3] = [
    ("cmdline", "The command line of this program"),
    ("profile", "Where processor time goes, for ?seconds=N (30): open the file with go tool pprof"),
    ("symbol", "The functions at addresses of this process: symbol?0x1234+0x5678"),
];
const ABSENT: [(&str, &str); 7] = [
    ("allocs", HEAP),
    ("block", WAITS),
    ("goroutine", "there are no goroutines: see the number of threads and what they are at in /proc/PID/task"),
    ("heap", HEAP),
    ("mutex", WAITS),
    ("threadcreate", "no record is kept of what starts threads: see /proc/PID/task"),
    ("trace", "execution is not traced: take a profile, or use perf trace on the machine"),
];
const HEAP: &str = "the allocator keeps no record of who has what memory: see process_resident_memory_bytes in /metrics and \
                    /proc/PID/smaps_rollup, or run the program under heaptrack";
const WAITS: &str = "no record is kept of who waits for what: use perf lock or offcputime on the machine";

/// Whether a path is [`PREFIX`] or below it.
pub fn is_below(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for [`PREFIX`] or a path below it.
pub async fn serve(method: &Method, uri: &Uri) -> Response<Bytes> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return failed(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
    }
    let query = uri.query().unwrap_or_default();
    match uri.path().strip_prefix(PREFIX).unwrap_or("x") {
        "" => {
            let mut response = answer(StatusCode::FOUND, TEXT, Bytes::new());
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/debug/pprof/"));
            response
        }
        "/" => answer(StatusCode::OK, "text/html; charset=utf-8", index()),
        "/cmdline" => answer(StatusCode::OK, TEXT, command_line()),
        // It would be thrown away.
        "/profile" if *method == Method::HEAD => answer(StatusCode::OK, OCTETS, Bytes::new()),
        "/profile" => processor(query).await,
        "/symbol" => symbols(query).await,
        rest => match ABSENT.iter().find(|(absent, _)| rest.strip_prefix('/') == Some(*absent)) {
            Some((name, why)) => failed(StatusCode::NOT_FOUND, &format!("There is no profile {name}: {why}")),
            None => failed(StatusCode::NOT_FOUND, "Unknown profile"),
        },
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Go's client takes the text of an error from what has this header.
fn failed(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = answer(status, TEXT, format!("{text}\n"));
    response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}

fn index() -> String {
    let row = |(name, what): &(&str, &str)| format!("<tr><td><a href='{name}'>{name}</a></td><td>{what}</td></tr>\n");
    let here: String = HERE.iter().map(row).collect();
    let absent: String = ABSENT.iter().map(|(name, why)| format!("<li>{name}: {why}</li>\n")).collect();
    format!(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<br>\n<p>Types of profiles available:\n\
         <table>\n{here}</table>\n<p>Of what Go programs have, there is not:\n<ul>\n{absent}</ul>\n</body>\n</html>\n"
    )
}

fn command_line() -> Vec<u8> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
    arguments.join(&0)
}

/// As Go, what is no number of seconds is the usual one.
fn seconds(query: &str) -> u64 {
    let said = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    said.and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0).unwrap_or(USUAL)
}

async fn processor(query: &str) -> Response<Bytes> {
    let seconds = seconds(query);
    if seconds > LONGEST {
        let text =
            format!("A profile of {seconds} seconds is too long: ask for {LONGEST} or less, and again if need be");
        return failed(StatusCode::BAD_REQUEST, &text);
    }
    match profile(Duration::from_secs(seconds)).await {
        Ok(bytes) => {
            let mut response = answer(StatusCode::OK, OCTETS, bytes);
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &refusal(&error)),
    }
}

fn refusal(error: &ProfileError) -> String {
    format!("Could not enable CPU profiling: {error}")
}

async fn symbols(query: &str) -> Response<Bytes> {
    let hexadecimal = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let addresses: Vec<u64> = query.split('+').filter_map(hexadecimal).collect();
    let work = move || -> io::Result<String> {
        // Whether there are any is all that is asked by those who give no address.
        let probe = addresses.is_empty().then_some(symbols as *const () as u64);
        let known = functions(&mappings(|_, _| Ok(()))?, &probe.map_or(addresses.clone(), |address| vec![address]))?;
        let any = u8::from(known.iter().any(Option::is_some));
        let lines = addresses.iter().zip(&known).filter_map(|(at, name)| Some(format!("{at:#x} {}\n", name.as_ref()?)));
        Ok(format!("num_symbols: {any}\n{}", lines.collect::<String>()))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(text)) => answer(StatusCode::OK, TEXT, text),
        Ok(Err(error)) => failed(StatusCode::INTERNAL_SERVER_ERROR, &format!("the program cannot be read: {error}")),
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the program cannot be read"),
    }
}

#[cfg(test)]
mod tests;
