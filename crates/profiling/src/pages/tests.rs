use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flate2::read::GzDecoder;
use prost::Message;

use super::*;
use crate::profile::{Profile, Seen};

async fn get(path: &str) -> Response<Bytes> {
    serve(&Method::GET, &path.parse().unwrap()).await
}

fn text(response: &Response<Bytes>) -> String {
    String::from_utf8_lossy(response.body()).into_owned()
}

#[inline(never)]
fn burn_processor_time(stop: &AtomicBool) -> u64 {
    let mut sum = 1u64;
    while !stop.load(Ordering::Relaxed) {
        for step in 0..1000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(step));
        }
    }
    sum
}

#[inline(never)]
fn who_calls_it(stop: &AtomicBool) -> u64 {
    std::hint::black_box(burn_processor_time(stop)) + 1
}

/// Keeps one processor busy until it is dropped.
struct Load(Arc<AtomicBool>, Option<std::thread::JoinHandle<u64>>);

impl Load {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let own = stop.clone();
        Self(stop, Some(std::thread::spawn(move || who_calls_it(&own))))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// The functions of each stack, innermost first, with how often it was seen.
fn stacks(profile: &Profile) -> Vec<(Vec<&str>, i64)> {
    let name = |id: &u64| {
        let location = &profile.location[*id as usize - 1];
        let function = location.functions().next().map(|id| &profile.function[id as usize - 1]);
        function.map_or("", |function| &*profile.string_table[function.name as usize])
    };
    profile.sample.iter().map(|s| (s.location_id.iter().map(name).collect(), s.value[0])).collect()
}

/// One test: a process has one profile at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_shows_who_uses_processor_time() {
    let load = Load::start();
    let first = tokio::spawn(get("/debug/pprof/profile?seconds=2"));
    let until = Instant::now() + Duration::from_secs(10);
    let second = loop {
        // It is begun by a thread of its own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = get("/debug/pprof/profile?seconds=1").await;
        if second.status() != StatusCode::OK || Instant::now() > until {
            break second;
        }
    };
    let refused = "Could not enable CPU profiling: cpu profiling already in use\n";
    assert_eq!((second.status(), text(&second).as_str()), (StatusCode::INTERNAL_SERVER_ERROR, refused));
    assert_eq!(second.headers()["x-go-pprof"], "1");

    let response = first.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{}", text(&response));
    assert_eq!(response.headers()[CONTENT_TYPE], OCTETS);
    let mut bytes = Vec::new();
    GzDecoder::new(&response.body()[..]).read_to_end(&mut bytes).unwrap();
    let profile = Profile::decode(&*bytes).unwrap();
    let all: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    let time: i64 = profile.sample.iter().map(|sample| sample.value[1]).sum();
    assert!(all >= 20 && time == all * 10_000_000, "{all} samples, {time} ns");
    assert!(profile.duration_nanos >= 2_000_000_000 && profile.period == 10_000_000);
    let seen = stacks(&profile);
    let burns = |stack: &[&str]| {
        let callee = stack.iter().position(|name| name.ends_with("::burn_processor_time"));
        callee.is_some_and(|at| stack[at..].iter().any(|name| name.ends_with("::who_calls_it")))
    };
    let burnt: i64 = seen.iter().filter(|(stack, _)| burns(stack)).map(|(_, times)| times).sum();
    assert!(burnt * 2 > all, "{burnt} of {all}: {seen:?}");
    let whole = seen.iter().filter(|(stack, _)| burns(stack) && stack.len() >= 5);
    assert!(whole.count() > 0, "stacks end early: {seen:?}");

    // Nobody waits for it any more: it ends, and the next one may come.
    let lost = tokio::spawn(get("/debug/pprof/profile?seconds=300"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    lost.abort();
    let until = Instant::now() + Duration::from_secs(5);
    while get("/debug/pprof/profile?seconds=1").await.status() != StatusCode::OK {
        assert!(Instant::now() < until, "a profile goes on that nobody waits for");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(load);
}

/// As it is where the program is stripped: somebody else can still tell what the addresses are.
#[test]
fn addresses_without_names_have_a_file_and_its_build_id() {
    let mappings = mappings(|_, _| Ok(())).unwrap();
    let here = who_calls_it as *const () as u64 + 1;
    let seen = Seen {
        began: std::time::SystemTime::now(),
        lasted: Duration::from_secs(1),
        period: Duration::from_millis(10),
        stacks: [(vec![here, here + 1], 3), (vec![here], 1)].into(),
        lost: 2,
    };
    let profile = seen.profile(&mappings, None);
    assert!(profile.function.is_empty() && profile.location.len() == 2);
    let location = profile.location.iter().find(|location| location.address == here).unwrap();
    let mapping = &profile.mapping[location.mapping_id as usize - 1];
    let string = |index: i64| &*profile.string_table[index as usize];
    assert_eq!(string(mapping.filename), std::env::current_exe().unwrap().to_str().unwrap());
    assert!(mapping.id() == 1 && !mapping.has_functions && string(mapping.build_id).len() >= 16, "{mapping:?}");
    assert!(string(profile.comment[0]).starts_with("the program has no symbols"));
    assert!(string(profile.comment[1]).starts_with("2 samples more"));
    // The address as the file counts is that of the symbol.
    let named = crate::profile::functions(&mappings, &[here, 1]).unwrap();
    assert!(named[0].as_ref().unwrap().ends_with("::who_calls_it") && named[1].is_none(), "{named:?}");
    let mut values: Vec<i64> = profile.sample.iter().map(|sample| sample.value[0]).collect();
    values.sort_unstable();
    assert_eq!(values, [1, 3]);
}

#[tokio::test]
async fn pages() {
    for (path, status, expect) in [
        ("", 302, ""),
        ("/", 200, "<a href='profile'>profile</a>"),
        ("/heap", 404, "There is no profile heap: the allocator keeps no record"),
        ("/trace?seconds=5", 404, "There is no profile trace: execution is not traced"),
        ("/x", 404, "Unknown profile\n"),
        ("/profile/", 404, "Unknown profile\n"),
        ("/profile?seconds=301", 400, "A profile of 301 seconds is too long: ask for 300 or less"),
        ("/symbol", 200, "num_symbols: 1\n"),
        ("/symbol?0x1+x+0xfffffffffffffffff+", 200, "num_symbols: 0\n"),
    ] {
        let response = get(&format!("/debug/pprof{path}")).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(text(&response).contains(expect), "{path}: {}", text(&response));
    }
    assert_eq!(get("/debug/pprofx").await.status(), 404);
    assert!(
        is_below("/debug/pprof") && is_below("/debug/pprof/x") && !is_below("/debug/pprofx") && !is_below("/debug")
    );
    assert_eq!(serve(&Method::POST, &"/debug/pprof/profile".parse().unwrap()).await.status(), 405);
    let arguments: Vec<String> = std::env::args().collect();
    assert_eq!(text(&get("/debug/pprof/cmdline").await), arguments.join("\0"));
    let here = burn_processor_time as *const () as u64;
    let answer = text(&get(&format!("/debug/pprof/symbol?{here:#x}+0x1")).await);
    let expect = format!("num_symbols: 1\n{here:#x} ");
    assert!(answer.starts_with(&expect) && answer.ends_with("::burn_processor_time\n"), "{answer}");
    for (query, expect) in [("seconds=5", 5), ("debug=1&seconds=7", 7), ("seconds=0", 30), ("seconds=-1", 30), ("", 30)]
    {
        assert_eq!(seconds(query), expect, "{query}");
    }
}
