//! `podium image pull`: waits for the runtime, and tells a person at a terminal how far it is.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use podium_cri::{Cri, images, v1};

/// How often a person is told: often enough to look alive.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Back to the line's beginning, and nothing right of it.
const AGAIN: &str = "\r\x1b[K";

/// Pulls an image; gives its id.
pub(crate) async fn pull(endpoint: &str, image: &str) -> Result<String> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let cri = Cri::connect(endpoint)?;
    let pulling = cri.pull_image(spec, None, None);
    tokio::pin!(pulling);
    let mut tell = tokio::time::interval(TELL_EVERY);
    // Another runtime has no such call: then there is nothing to tell.
    let mut asks = std::io::stderr().is_terminal();
    let name = podium_cri::normalize_image_name(image)?;
    loop {
        tokio::select! {
            pulled = &mut pulling => {
                if asks {
                    eprint!("{AGAIN}");
                }
                return Ok(pulled?);
            }
            _ = tell.tick(), if asks => match podium_cri::pulls(endpoint).await {
                Ok(pulls) => {
                    if let Some(one) = pulls.iter().find(|one| one.image == name) {
                        eprint!("{AGAIN}{}", line(one));
                        std::io::stderr().flush()?;
                    }
                }
                Err(_) => asks = false,
            },
        }
    }
}

/// What a person reads while it goes on.
#[expect(clippy::cast_precision_loss, reason = "for people: one decimal is enough")]
fn line(pull: &images::Pull) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (bytes, total) = (pull.bytes, pull.total_bytes);
    match total {
        0 => format!("{}: asking the registry", pull.image),
        // All is here but not unpacked yet.
        _ if bytes >= total => format!("{}: unpacking {:.1} MB", pull.image, megabytes(total)),
        _ => format!(
            "{}: {:.1} of {:.1} MB ({} %)",
            pull.image,
            megabytes(bytes),
            megabytes(total),
            u128::from(bytes) * 100 / u128::from(total)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (bytes, total_bytes, expected) in [
            (0, 0, "q.io/a:v1: asking the registry"),
            (12_340_000, 100_000_000, "q.io/a:v1: 12.3 of 100.0 MB (12 %)"),
            (u64::MAX - 1, u64::MAX, "q.io/a:v1: 18446744073709.6 of 18446744073709.6 MB (99 %)"),
            (100_000_000, 100_000_000, "q.io/a:v1: unpacking 100.0 MB"),
        ] {
            assert_eq!(line(&images::Pull { image: "q.io/a:v1".into(), bytes, total_bytes }), expected);
        }
    }
}
