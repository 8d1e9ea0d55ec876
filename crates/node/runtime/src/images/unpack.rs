//! A layer's tar stream as files below one directory, and nowhere else.
//!
//! Every name is resolved by the kernel with the directory as its root (`openat2`, `RESOLVE_IN_ROOT`), so links in the
//! archive lead where they would lead in the container; a name with `..` is refused. Layers are unpacked apart from those
//! below them: a directory that only a lower layer has is made again with the lower one's owner and mode, and a lower
//! layer's link is copied, so that the layers laid over each other look as if they had been unpacked into one place.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use podium_shim::openat2;
use tar::{Archive, Entry, EntryType};

use super::blobs::{KEEP_FREE, ROOM_EVERY};
use super::sparse::{self, Sparse};
use super::xattr;
use crate::remove;

/// Links in links are followed this often, as the kernel does.
const MAX_LINKS: usize = 40;
/// Marks the deletion of a name in lower layers.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory that hides all that lower layers have in it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bytes of headers before one entry's content: long names and extended headers are read whole into memory. Each of the
/// three may have a MiB, as in other readers.
const HEADER_BYTES: u64 = 3 << 20;
/// As much of them may list the parts of a sparse file, three thousand or so: the library takes time that grows with the
/// square of their number.
const SPARSE_BYTES: u64 = 64 << 10;

/// Bounds of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Entries: a million files are somebody's image, a hundred million are an attack.
    pub(crate) entries: u64,
    /// Bytes of the disk that are left alone, so that an image cannot take the last of it.
    pub(crate) keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, keep_free: KEEP_FREE }
    }
}

/// What a layer became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// A name that would leave the layer, or cannot be one.
    #[error("layer entry {path:?}: {why}")]
    Name {
        /// As in the archive.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry could not be made.
    #[error("layer entry {path:?}")]
    Entry {
        /// As in the archive.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive is broken.
    #[error("reading the layer")]
    Archive(#[source] io::Error),
    /// More entries than any image has.
    #[error("the layer has more than {0} entries")]
    Entries(u64),
    /// The disk is nearly full.
    #[error("no space left on device: the layer would leave less than {keep_free} bytes free")]
    Room {
        /// What has to stay.
        keep_free: u64,
    },
}

struct Unpacker {
    root: OwnedFd,
    lower: Vec<File>,
    limits: Limits,
    usage: Usage,
    unchecked: u64,
    /// Bytes that the entries to come may have.
    room: u64,
    /// The directory of the last entry: neighbours follow each other.
    recent: Option<(PathBuf, OwnedFd)>,
    /// Times of directories are set last: filling them changes them.
    directories: Vec<(PathBuf, TimeSpec)>,
    buffer: Vec<u8>,
}

/// Unpacks a plain tar stream into `target`, which exists and is empty. `lower` are the layers below, uppermost first.
pub(crate) fn unpack(
    stream: impl Read,
    target: &Path,
    lower: &[PathBuf],
    limits: Limits,
) -> Result<Usage, UnpackError> {
    let begin = || -> io::Result<Unpacker> {
        Ok(Unpacker {
            root: File::open(target)?.into(),
            lower: lower.iter().map(File::open).collect::<io::Result<_>>()?,
            limits,
            usage: Usage::default(),
            unchecked: 0,
            room: u64::MAX,
            recent: None,
            directories: Vec::new(),
            buffer: vec![0; 1 << 18],
        })
    };
    let mut unpacker = begin().map_err(UnpackError::Archive)?;
    unpacker.room = unpacker.free().map_err(UnpackError::Archive)?.saturating_sub(limits.keep_free);
    let left = Rc::new(Cell::new(u64::MAX));
    let mut archive = Archive::new(Bounded { inner: stream, left: Rc::clone(&left) });
    archive.set_ignore_zeros(false);
    let mut entries = archive.entries().map_err(UnpackError::Archive)?;
    loop {
        // Nothing of the last entry is left to be read, so that all that the next step reads is headers.
        left.set(HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let headers = HEADER_BYTES - left.replace(u64::MAX);
        if entry.header().entry_type() == EntryType::GNUSparse && headers > SPARSE_BYTES {
            let text = format!("a sparse file has more than {SPARSE_BYTES} bytes of headers");
            return Err(UnpackError::Archive(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        unpacker.usage.inodes += 1;
        if unpacker.usage.inodes > limits.entries {
            return Err(UnpackError::Entries(limits.entries));
        }
        unpacker.claim(entry.size())?;
        unpacker.entry(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Archive)?;
    }
    left.set(u64::MAX);
    // Whatever follows the end mark belongs to the layer's digest: it is read, and nothing else.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
    unpacker.finish()?;
    Ok(unpacker.usage)
}

/// A stream that gives no more than what is left of an allowance.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            let text = format!("an entry has more than {HEADER_BYTES} bytes of headers");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let size = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - size as u64);
        Ok(size)
    }
}

/// A name's parts below the root; None for the root itself.
fn clean(bytes: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    let mut clean = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(bytes)).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => return Err("climbs out of its directory"),
            _ => {}
        }
    }
    if bytes.contains(&0) {
        return Err("contains a zero byte");
    }
    Ok(Some(clean).filter(|path| !path.as_os_str().is_empty()))
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let sparse = sparse::of(entry).map_err(UnpackError::Archive)?;
        if let Some(sparse) = &sparse {
            self.claim(sparse.size)?;
        }
        let name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let bytes = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = || String::from_utf8_lossy(&bytes).into_owned();
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        if matches!(kind, EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            // Only in archives of a format without them: their content would be read whole as attributes.
            return Err(UnpackError::Name { path: path(), why: "is a header of another format" });
        }
        match clean(&bytes) {
            Err(why) => Err(UnpackError::Name { path: path(), why }),
            Ok(None) => self.settle_root(entry).map_err(|source| UnpackError::Entry { path: path(), source }),
            Ok(Some(name)) => self.make(&name, kind, sparse, entry).map_err(|source| {
                if source.kind() == io::ErrorKind::StorageFull {
                    return UnpackError::Room { keep_free: self.limits.keep_free };
                }
                UnpackError::Entry { path: path(), source }
            }),
        }
    }

    fn make<R: Read>(
        &mut self,
        path: &Path,
        kind: EntryType,
        sparse: Option<Sparse>,
        entry: &mut Entry<'_, R>,
    ) -> io::Result<()> {
        let above = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.directory(above)?;
        if name.as_bytes() == OPAQUE {
            return xattr::set(&parent, c"trusted.overlay.opaque", b"y");
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.hide(&parent, OsStr::from_bytes(hidden));
        }
        let meta = Meta::of(entry)?;
        if kind != EntryType::Directory {
            self.clear(&parent, name)?;
        }
        match kind {
            EntryType::Directory => return self.make_directory(&parent, name, path, &meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.make_file(&parent, name, sparse, entry, &meta);
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                symlinkat(OsStr::from_bytes(&target), &parent, name)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                return self.make_link(&parent, name, &target);
            }
            EntryType::Char | EntryType::Block => {
                let number =
                    |number: io::Result<Option<u32>>| number.map(|number| u64::from(number.unwrap_or(0)));
                let (major, minor) =
                    (number(entry.header().device_major())?, number(entry.header().device_minor())?);
                let flag = if kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                if (flag, major, minor) == (SFlag::S_IFCHR, 0, 0) {
                    // To the kernel this would be a deletion; in an archive deletions have names of their own.
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a device with numbers 0, 0"));
                }
                let device =
                    libc::makedev(u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0));
                mknodat(&parent, name, flag, Mode::from_bits_truncate(meta.mode), device)?;
            }
            EntryType::Fifo => {
                mknodat(&parent, name, SFlag::S_IFIFO, Mode::from_bits_truncate(meta.mode), 0)?;
            }
            other => {
                let text = format!("unknown kind {:?}", other.as_byte());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        let (uid, gid) = meta.owner();
        fchownat(&parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind != EntryType::Symlink {
            // By a path of the descriptor: chmod has no form that refuses links, and this is no link.
            nix::sys::stat::fchmodat(
                &parent,
                name,
                Mode::from_bits_truncate(meta.mode),
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )?;
        }
        utimensat(&parent, name, &meta.time, &meta.time, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }

    /// The layer's own root.
    fn settle_root<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let meta = Meta::of(entry)?;
        if entry.header().entry_type() == EntryType::Directory {
            let file = File::from(openat2(&self.root, ".", how(OFlag::O_RDONLY | OFlag::O_DIRECTORY))?);
            meta.apply(&file)?;
            self.directories.push((PathBuf::from("."), meta.time));
        }
        Ok(())
    }

    fn make_directory(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path, meta: &Meta) -> io::Result<()> {
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFDIR => {}
            Ok(_) => {
                self.clear(parent, name)?;
                mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
            }
            Err(Errno::ENOENT) => mkdirat(parent, name, Mode::from_bits_truncate(0o700))?,
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let file = File::from(openat2(parent, name, how(flags))?);
        meta.apply(&file)?;
        self.directories.push((path.to_owned(), meta.time));
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        sparse: Option<Sparse>,
        entry: &mut Entry<'_, R>,
        meta: &Meta,
    ) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let how = how(flags).mode(Mode::from_bits_truncate(0o600));
        let mut file = File::from(openat2(parent, name, how)?);
        let length = match sparse {
            Some(mut sparse) => {
                for (offset, length) in sparse.parts(entry)? {
                    file.seek(SeekFrom::Start(offset))?;
                    if self.fill(&mut file, &mut entry.take(length), false)? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                sparse.size
            }
            // The library gives holes of the older format as zeroes.
            None => {
                let holes = entry.header().entry_type() == EntryType::GNUSparse;
                self.fill(&mut file, entry, holes)?
            }
        };
        // The last hole.
        if file.metadata()?.len() < length {
            file.set_len(length)?;
        }
        meta.apply(&file)?;
        nix::sys::stat::futimens(&file, &meta.time, &meta.time)?;
        Ok(())
    }

    /// Writes what comes, from where the file is; its length. With `holes` zeroes stay unwritten.
    fn fill(&mut self, file: &mut File, from: &mut impl Read, holes: bool) -> io::Result<u64> {
        let mut length = 0;
        loop {
            let size = match from.read(&mut self.buffer) {
                Ok(0) => return Ok(length),
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            length += size as u64;
            let chunk = &self.buffer[..size];
            if holes && chunk.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(i64::try_from(size).unwrap_or(0)))?;
                continue;
            }
            file.write_all(chunk)?;
            self.usage.bytes += size as u64;
            self.unchecked += size as u64;
            if self.unchecked >= ROOM_EVERY {
                self.unchecked = 0;
                self.check_room()?;
            }
        }
    }

    /// Another name for a file of this layer.
    fn make_link(&self, parent: &OwnedFd, name: &OsStr, target: &[u8]) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("hard link: {why}"));
        let target = clean(target).map_err(invalid)?.ok_or_else(|| invalid("to the root"))?;
        let above = target.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = openat2(&self.root, above, how(OFlag::O_PATH | OFlag::O_DIRECTORY))?;
        let last = target.file_name().ok_or_else(|| invalid("to nothing"))?;
        linkat(&directory, last, parent, name, LinkatFlags::empty())?;
        Ok(())
    }

    fn hide(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        if name.is_empty() || name.as_bytes().starts_with(b".wh.") {
            // Other unions' bookkeeping (`.wh..wh.aufs`) hides nothing.
            return Ok(());
        }
        if name == "." || name == ".." {
            // The entry is called `.wh...`: a name like any other, until its prefix is taken off, and then the directory above.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a whiteout of a directory around it"));
        }
        self.clear(parent, name)?;
        mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0)?;
        Ok(())
    }

    /// Removes what an earlier entry of this layer has put there.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.recent = None;
                Ok(())
            }
            Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {
                self.recent = None;
                remove::tree_at(parent.as_fd(), name)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The directory at a path, made where it is missing.
    fn directory(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((recent, fd)) = &self.recent
            && recent == path
        {
            return fd.try_clone();
        }
        let found = self.resolve(path, MAX_LINKS)?;
        self.recent = Some((path.to_owned(), found.try_clone()?));
        Ok(found)
    }

    fn resolve(&self, path: &Path, links: usize) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            openat2(&self.root, path, how(flags))
        };
        match open(path) {
            Err(Errno::ENOENT) => {}
            other => return Ok(other?),
        }
        let fewer = || links.checked_sub(1).ok_or(Errno::ELOOP);
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.resolve(above, links)?;
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => match self.below(path)? {
                Some(Below::Link(target)) => {
                    symlinkat(target.as_os_str(), &parent, name)?;
                    self.resolve(&pointed(above, &target), fewer()?)
                }
                Some(Below::Directory(stat)) => {
                    mkdirat(&parent, name, Mode::from_bits_truncate(0o700))?;
                    let made = openat2(
                        &parent,
                        name,
                        how(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW),
                    )?;
                    fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                    nix::sys::stat::fchmod(&made, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
                    Ok(made)
                }
                None => {
                    mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                    Ok(openat2(&parent, name, how(flags | OFlag::O_NOFOLLOW))?)
                }
            },
            // A link to something that this layer lacks.
            Ok(stat) if kind(&stat) == SFlag::S_IFLNK => {
                let target = PathBuf::from(readlinkat(&parent, name)?);
                self.resolve(&pointed(above, &target), fewer()?)
            }
            Ok(stat) if kind(&stat) == SFlag::S_IFCHR && stat.st_rdev == 0 => {
                // Deleted below, and now there again.
                unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                Ok(openat2(&parent, name, how(flags | OFlag::O_NOFOLLOW))?)
            }
            Ok(_) => Err(Errno::ENOTDIR.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What the layers below have at a path.
    fn below(&self, path: &Path) -> io::Result<Option<Below>> {
        for layer in &self.lower {
            let found = match openat2(layer, path, how(OFlag::O_PATH | OFlag::O_NOFOLLOW)) {
                Ok(found) => found,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let stat = fstat(&found)?;
            return Ok(match kind(&stat) {
                SFlag::S_IFDIR => Some(Below::Directory(stat)),
                SFlag::S_IFLNK => Some(Below::Link(PathBuf::from(readlinkat(&found, "")?))),
                // A file or a deletion: what is above replaces it.
                _ => None,
            });
        }
        Ok(None)
    }

    /// Refuses content that cannot fit before any of it is read. Holes count like bytes: they can be read, and copied.
    fn claim(&mut self, size: u64) -> Result<(), UnpackError> {
        let left = self.room.checked_sub(size);
        self.room = left.ok_or(UnpackError::Room { keep_free: self.limits.keep_free })?;
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let room = fstatvfs(&self.root)?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }

    fn check_room(&self) -> io::Result<()> {
        let free = self.free()?;
        if free < self.limits.keep_free { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, time) in self.directories.iter().rev() {
            match openat2(&self.root, path, how(OFlag::O_RDONLY | OFlag::O_DIRECTORY)) {
                // A later entry may have replaced it.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Ok(found) => nix::sys::stat::futimens(&found, time, time)
                    .map_err(|errno| UnpackError::Archive(errno.into()))?,
                Err(errno) => return Err(UnpackError::Archive(errno.into())),
            }
        }
        Ok(())
    }
}

enum Below {
    Directory(FileStat),
    Link(PathBuf),
}

/// Where a link in a directory points, from the root; what would climb above stays at it, as in a container.
fn pointed(directory: &Path, target: &Path) -> PathBuf {
    let mut at = if target.is_absolute() { PathBuf::new() } else { directory.to_owned() };
    for part in target.components() {
        match part {
            Component::Normal(part) => at.push(part),
            Component::ParentDir => {
                at.pop();
            }
            _ => {}
        }
    }
    at
}

/// Owner, mode, time and attributes of an entry.
struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    time: TimeSpec,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let mut attributes = Vec::new();
        let old = entry.header().as_old();
        let (mut uid, mut gid) =
            (number(&old.uid, entry.header().uid())?, number(&old.gid, entry.header().gid())?);
        let mut time = (i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0), 0);
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions.filter_map(Result::ok) {
                let text = || extension.value().ok().unwrap_or_default();
                match extension.key_bytes() {
                    b"uid" => uid = text().parse().unwrap_or(uid),
                    b"gid" => gid = text().parse().unwrap_or(gid),
                    b"mtime" => time = parse_time(text()).unwrap_or(time),
                    key => {
                        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                            attributes.push((name.to_vec(), extension.value_bytes().to_vec()));
                        }
                    }
                }
            }
        }
        Ok(Self {
            uid: u32::try_from(uid).map_err(io::Error::other)?,
            gid: u32::try_from(gid).map_err(io::Error::other)?,
            mode: number(&entry.header().as_old().mode, entry.header().mode())? & 0o7777,
            time: TimeSpec::new(time.0, time.1),
            attributes,
        })
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    /// Owner before mode before attributes: each clears what follows.
    fn apply(&self, file: &File) -> io::Result<()> {
        let (uid, gid) = self.owner();
        fchown(file.as_fd(), uid, gid)?;
        nix::sys::stat::fchmod(file.as_fd(), Mode::from_bits_truncate(self.mode))?;
        for (name, value) in &self.attributes {
            xattr::set_named(file, name, value)?;
        }
        Ok(())
    }
}

/// A field that was left empty is zero, as every other reader of archives has it.
fn number<T: Default>(field: &[u8], parsed: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { parsed }
}

fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}

/// What one name takes on the disk; nothing if it is not there.
pub(crate) fn usage_of(path: &Path) -> Usage {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path);
    metadata.map_or(Usage::default(), |metadata| Usage { bytes: metadata.blocks() * 512, inodes: 1 })
}

/// Bytes and inodes that a directory takes on the disk.
pub(crate) fn usage(directory: &Path) -> Usage {
    let mut total = Usage::default();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            total += usage_of(&path);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path);
            }
        }
    }
    total
}

#[cfg(test)]
mod tests;
