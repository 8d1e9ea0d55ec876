//! Reads a container's log as `kubectl logs` shows it: the file the runtime writes and the one it wrote
//! before (older ones are compressed and, as with upstream, not shown), from a line near the end or from
//! a time on, and if wanted further until the container ends.
//!
//! Everything is driven by whoever polls the stream: when a client goes away the stream is dropped, and
//! nothing is left behind.

mod decode;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};

use crate::directory_watch::DirectoryWatch;
use decode::Decoder;
pub(crate) use decode::{Choice, Format};

/// How much is read at a time.
const BLOCK: usize = 64 * 1024;
/// Upstream's `logForceCheckPeriod`: how often a silent container is asked whether it still runs.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// After the runtime has closed the file the container's end is not far.
const CHECK_SOON: Duration = Duration::from_millis(20);

/// What to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) format: Format,
    /// Only so many lines from the end; None for all.
    pub(crate) tail_lines: Option<u64>,
    /// Goes on until the container ends.
    pub(crate) follow: bool,
}

/// Says whether a container may still write.
pub(crate) type StillRuns = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// One file to be read, from `at` up to `end` if that is set, else to where it ends.
#[derive(Debug)]
struct Part {
    file: Arc<File>,
    at: u64,
    end: Option<u64>,
}

/// Opens a log. What is already there is only looked at here, and read when the stream is polled.
///
/// # Errors
/// If the log cannot be opened.
pub(crate) async fn open(
    path: PathBuf,
    options: Options,
    still_runs: StillRuns,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let follow = options.follow;
    let reader = blocking(move || Reader::open(path, &options)).await?;
    let state = Following { reader, follow, still_runs, watch: None, check_after: CHECK_EVERY, ended: false };
    Ok(futures::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads what is there. Blocking.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    /// Oldest first; the last one is what the runtime writes to, as far as we know.
    parts: VecDeque<Part>,
    decoder: Decoder,
}

impl Reader {
    fn open(path: PathBuf, options: &Options) -> io::Result<Self> {
        // The current one first: if it is renamed meanwhile, it is found again by its number and left out.
        let current = File::open(&path)?;
        let number = current.metadata()?.ino();
        let mut files = Vec::new();
        if let Some(before) = super::rotate::newest_plain(&path)? {
            match File::open(before) {
                Ok(file) if file.metadata()?.ino() != number => files.push(file),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        files.push(current);
        let mut parts = VecDeque::new();
        let mut wanted = options.tail_lines;
        for file in files.into_iter().rev() {
            let size = file.metadata()?.len();
            let at = match &mut wanted {
                None => 0,
                Some(0) => size,
                Some(lines) => {
                    let found = tail::start(&file, size, *lines)?;
                    *lines -= found.lines;
                    found.offset
                }
            };
            // What is written while we read is not part of the answer, unless it is to be followed.
            parts.push_front(Part { file: Arc::new(file), at, end: (!options.follow).then_some(size) });
        }
        Ok(Self { path, parts, decoder: Decoder::new(options.format.clone()) })
    }

    /// The next piece; empty when everything that is there has been read.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut block = vec![0; BLOCK];
        while out.len() < BLOCK / 2 && !self.decoder.is_full() {
            let Some(part) = self.parts.front_mut() else { break };
            let left = part.end.map_or(u64::MAX, |end| end.saturating_sub(part.at));
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let got = part.file.read_at(&mut block[..most], part.at)?;
            part.at += u64::try_from(got).unwrap_or(0);
            if got > 0 {
                self.decoder.push(&block[..got], &mut out);
            } else if self.parts.len() > 1 {
                self.parts.pop_front();
                // A line does not go on in the next file.
                self.decoder.finish(&mut out);
            } else {
                break;
            }
        }
        Ok(out)
    }

    /// What stands at the end without a line's end.
    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.decoder.finish(&mut out);
        out
    }

    /// Looks whether the log goes on in a new file, and takes it up. The old one is kept in front: the
    /// runtime may write to it until it has begun the new one, so that must not be empty yet (unless the
    /// container has ended).
    fn find_next(&mut self, ended: bool) -> io::Result<bool> {
        let known = match self.parts.back() {
            Some(part) => part.file.metadata()?.ino(),
            None => return Ok(false),
        };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if found.ino() == known || (found.len() == 0 && !ended) {
            return Ok(false);
        }
        self.parts.push_back(Part { file: Arc::new(file), at: 0, end: None });
        Ok(true)
    }
}

/// A reader and what it waits for.
struct Following {
    reader: Reader,
    follow: bool,
    still_runs: StillRuns,
    watch: Option<DirectoryWatch>,
    check_after: Duration,
    /// The container has ended; what is there is all there will be.
    ended: bool,
}

impl Following {
    /// The next piece, or None at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let out = self.on_reader(Reader::read).await?;
            if !out.is_empty() {
                self.check_after = CHECK_EVERY;
                return Ok(Some(out.into()));
            }
            if self.reader.decoder.is_full() {
                return Ok(None);
            }
            if self.follow && self.watch.is_none() {
                self.watch = Some(DirectoryWatch::new(self.reader.path.parent().unwrap_or(Path::new("/")))?);
                self.ended = !(self.still_runs)().await;
                // Something may have been written before the watch was there.
                continue;
            }
            let ended = self.ended;
            if self.follow && self.on_reader(move |reader| reader.find_next(ended)).await? {
                continue;
            }
            if !self.follow || self.ended {
                let rest = self.reader.finish();
                self.follow = false;
                return Ok((!rest.is_empty()).then(|| rest.into()));
            }
            self.wait().await?;
        }
    }

    /// Waits until there may be something new.
    async fn wait(&mut self) -> io::Result<()> {
        let Some(watch) = &self.watch else { return Ok(()) };
        match tokio::time::timeout(self.check_after, watch.changed()).await {
            Ok(changed) => {
                if !changed?.closed {
                    return Ok(());
                }
                self.check_after = CHECK_SOON;
            }
            Err(_) => self.check_after = (self.check_after * 2).min(CHECK_EVERY),
        }
        self.ended = !(self.still_runs)().await;
        Ok(())
    }

    async fn on_reader<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reader) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // The reader goes to the blocking thread and comes back.
        let empty =
            Reader { path: PathBuf::new(), parts: VecDeque::new(), decoder: Decoder::new(Format::default()) };
        let mut reader = std::mem::replace(&mut self.reader, empty);
        let (reader, outcome) = blocking(move || {
            let outcome = work(&mut reader);
            Ok((reader, outcome))
        })
        .await?;
        self.reader = reader;
        outcome
    }
}
