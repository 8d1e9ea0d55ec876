//! Figures beside containerd's, when `PODIUM_FIGURES` is set: times of calls, memory of what stays with a pod.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, Kind};

/// Pods measured, one after the other.
const ROUNDS: usize = 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Memory that a process has for itself, in bytes.
fn private(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    (field("Private_Clean:") + field("Private_Dirty:")) << 10
}

fn shims(fixture: &Fixture) -> Vec<u32> {
    let own = fixture.path("").display().to_string();
    let own = own.trim_end_matches('/');
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
            let command =
                String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).into_owned();
            (command.contains("shim") && command.contains(own)).then_some(pid)
        })
        .collect()
}

pub(crate) async fn measure(kind: Kind) {
    if std::env::var_os("PODIUM_FIGURES").is_none() {
        println!("skipped: PODIUM_FIGURES is not set");
        return;
    }
    let Some(fixture) = Fixture::start(kind).await else { return };
    let (mut pods, mut starts, mut execs, mut ends, mut memory) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let pod = fixture.pod(&format!("p{round}"));
        let begun = Instant::now();
        let sandbox = fixture.run_pod(&pod).await;
        pods.push(begun.elapsed());
        let begun = Instant::now();
        let id = fixture.run(&sandbox, fixture.script("c", "exec sleep 1000"), &pod).await;
        starts.push(begun.elapsed());
        let begun = Instant::now();
        fixture.exec(&id, "true").await;
        execs.push(begun.elapsed());
        memory.extend(shims(&fixture).into_iter().map(private));
        let begun = Instant::now();
        fixture.remove(&sandbox).await;
        ends.push(begun.elapsed());
    }
    memory.sort_unstable();
    println!(
        "{kind:?}: sandbox {:?}, create and start {:?}, exec {:?}, stop and remove {:?}, shim private {} KiB",
        median(pods),
        median(starts),
        median(execs),
        median(ends),
        memory.get(memory.len() / 2).copied().unwrap_or(0) >> 10
    );
    let archive = fixture.path("large.tar");
    large(&archive);
    let begun = Instant::now();
    podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
    println!("{kind:?}: {LARGE_FILES} files of {LARGE_BYTES} bytes loaded in {:?}", begun.elapsed());
    fixture.finish().await;
}

const LARGE_FILES: usize = 500;
const LARGE_BYTES: usize = 1 << 20;

/// An image of 500 MB.
fn large(path: &std::path::Path) {
    let mut image = podium_image::Image::new("example.com/podium/large:v1").command(&["x"]);
    let mut state = 1u64;
    for number in 0..LARGE_FILES {
        let mut bytes = vec![0; LARGE_BYTES];
        for chunk in bytes.chunks_mut(8) {
            // Marsaglia's xorshift: data that nothing can shorten.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        image = image.file(&format!("/data/{number}"), podium_image::ImageFile::Regular(bytes, 0o644));
    }
    image.write(std::io::BufWriter::new(std::fs::File::create(path).unwrap())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn podium() {
    measure(Kind::Podium).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd() {
    measure(Kind::Containerd).await;
}
