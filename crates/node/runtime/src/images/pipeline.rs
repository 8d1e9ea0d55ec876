//! A layer's stream made and hashed by threads of their own, so that unpacking it waits for neither.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use sha2::{Digest, Sha256};

/// What is handed on at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that wait: enough that neither side idles for the other's moods, and little memory.
const WAITING: usize = 8;

type Chunk = Arc<Vec<u8>>;

/// Reads a stream ahead. Dropping it ends the threads; [`Ahead::digest`] gives what the whole stream hashes to.
pub(super) struct Ahead<'scope> {
    chunks: Receiver<io::Result<Chunk>>,
    chunk: Chunk,
    at: usize,
    hash: ScopedJoinHandle<'scope, String>,
}

impl<'scope> Ahead<'scope> {
    /// `open` is called by the thread that reads.
    pub(super) fn start<R: Read>(
        scope: &'scope Scope<'scope, '_>,
        open: impl FnOnce() -> io::Result<R> + Send + 'scope,
    ) -> Self {
        let (give, chunks) = sync_channel(WAITING);
        let (also, hashed) = sync_channel::<Chunk>(WAITING);
        scope.spawn(move || {
            let outcome = open().and_then(|stream| produce(stream, &give, &also));
            if let Err(error) = outcome {
                // Whoever has gone does not want to know.
                let _ = give.send(Err(error));
            }
        });
        let hash = scope.spawn(move || {
            let mut hash = Sha256::new();
            for chunk in hashed {
                hash.update(chunk.as_slice());
            }
            format!("sha256:{:x}", hash.finalize())
        });
        Self { chunks, chunk: Arc::default(), at: 0, hash }
    }

    /// The digest of all that was produced. After the end of the stream.
    pub(super) fn digest(self) -> io::Result<String> {
        drop(self.chunks);
        self.hash.join().map_err(|_| io::Error::other("hashing a layer broke off"))
    }
}

/// Ends early if nobody reads any more.
fn produce(
    mut stream: impl Read,
    give: &SyncSender<io::Result<Chunk>>,
    also: &SyncSender<Chunk>,
) -> io::Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        stream.by_ref().take(CHUNK as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let chunk = Arc::new(bytes);
        if also.send(Arc::clone(&chunk)).is_err() || give.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                // The end; a producer that broke off is found out by the digest.
                Err(_) => return Ok(0),
            }
        }
        let size = buffer.len().min(self.chunk.len() - self.at);
        buffer[..size].copy_from_slice(&self.chunk[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// The same for one that reads all of it.
pub(super) fn ahead<R: Read, T>(
    open: impl FnOnce() -> io::Result<R> + Send,
    work: impl FnOnce(&mut Ahead<'_>) -> T,
) -> (T, io::Result<String>) {
    thread::scope(|scope| {
        let mut stream = Ahead::start(scope, open);
        let done = work(&mut stream);
        (done, stream.digest())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::blobs;

    #[test]
    fn what_is_read_is_what_is_hashed() {
        let bytes: Vec<u8> = (0..CHUNK * 20 + 7).map(|at| (at % 251) as u8).collect();
        let (read, digest) = ahead(
            || Ok(bytes.as_slice()),
            |stream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).map(|_| all)
            },
        );
        assert_eq!((read.unwrap() == bytes, digest.unwrap()), (true, blobs::digest(&bytes)));
    }

    #[test]
    fn failures_of_either_side_end_the_other() {
        let (read, _) = ahead(
            || Ok(io::repeat(0).take(CHUNK as u64).chain(Broken)),
            |stream| io::copy(stream, &mut io::sink()),
        );
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (read, _) = ahead(
            || Err::<io::Empty, _>(io::ErrorKind::NotFound.into()),
            |stream| io::copy(stream, &mut io::sink()),
        );
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::NotFound);
        // Would not return if the producer waited for a reader.
        let (read, _) = ahead(|| Ok(io::repeat(0)), |stream| stream.read(&mut [0; 8]));
        assert_eq!(read.unwrap(), 8);
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
