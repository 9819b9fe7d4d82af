//! A SQLite VFS that tells the model of a disk what is written and what is synced, and may be told to fail.
//!
//! Promises: it becomes SQLite's default, but only files in directories that were given to [`watch`] go through it;
//! all others are opened by the real one. A watched file is a real file too (the store looks at it), which is never
//! synced: what a sync is worth, the model knows. There is no shared memory, so a store that needed it could not open
//! its WAL: that the index of the WAL is on the heap is thereby part of every test here.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi;

use super::disk::Image;

/// What SQLite asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Delete,
}

/// `Some(code)`: it fails with that.
pub type Hook = Box<dyn FnMut(Call, &str) -> Option<c_int> + Send>;

/// A directory under watch.
#[derive(Default)]
pub struct Disk {
    image: Mutex<Image>,
    /// Which file of the real directory each name stood for when it was last opened.
    inodes: Mutex<BTreeMap<String, u64>>,
    hook: Mutex<Option<Hook>>,
    lies: Mutex<bool>,
    /// What of which file cannot be read, for good, whatever that file is called.
    bad: Mutex<Option<(u64, std::ops::Range<u64>)>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    pub fn image(&self) -> Image {
        held(&self.image).clone()
    }

    /// Before every call; it runs in the thread that calls, and must not use SQLite.
    pub fn on_call(&self, hook: Option<Hook>) {
        *held(&self.hook) = hook;
    }

    /// From now on a sync syncs nothing, and says that it did.
    pub fn lie(&self) {
        *held(&self.lies) = true;
    }

    /// These bytes of a file cannot be read from now on.
    pub fn unreadable(&self, path: &Path, bytes: std::ops::Range<u64>) {
        *held(&self.bad) = Some((path.metadata().expect("is there").ino(), bytes));
    }

    fn is_bad(&self, inode: u64, bytes: std::ops::Range<u64>) -> bool {
        let bad = held(&self.bad);
        bad.as_ref().is_some_and(|(of, bad)| *of == inode && bad.start < bytes.end && bytes.start < bad.end)
    }

    /// A file is opened. One that had another name was renamed since, and one that is another than this name's was
    /// replaced; whoever renames syncs the directory.
    fn open(&self, name: &str, inode: u64) {
        let (mut image, mut inodes) = (held(&self.image), held(&self.inodes));
        if inodes.get(name).is_some_and(|was| *was != inode) {
            image.forget(name);
        }
        let other = inodes.iter().find(|(other, is)| **is == inode && *other != name).map(|(o, _)| o.clone());
        if let Some(other) = other {
            inodes.remove(&other);
            image.rename(&other, name);
        }
        inodes.insert(name.to_owned(), inode);
        image.open(name);
    }

    fn call(&self, call: Call, name: &str) -> Option<c_int> {
        held(&self.hook).as_mut().and_then(|hook| hook(call, name))
    }
}

static WATCHED: Mutex<Vec<(PathBuf, Arc<Disk>)>> = Mutex::new(Vec::new());

/// Files of SQLite in `dir` go through the model from now on; those that are there are durable.
pub fn watch(dir: &Path) -> Arc<Disk> {
    install();
    let disk = Arc::new(Disk::default());
    for entry in std::fs::read_dir(dir).expect("lists").map(|e| e.expect("lists")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.starts_with("fieldgate.db") || name.starts_with("broker.db")) && entry.path().is_file() {
            held(&disk.image).put(&name, std::fs::read(entry.path()).expect("reads"));
            held(&disk.inodes).insert(name, entry.metadata().expect("is there").ino());
        }
    }
    held(&WATCHED).push((dir.to_owned(), Arc::clone(&disk)));
    disk
}

pub fn unwatch(dir: &Path) {
    held(&WATCHED).retain(|(watched, _)| watched != dir);
}

fn watched(path: &Path) -> Option<(Arc<Disk>, String)> {
    let dir = path.parent()?;
    let disk = held(&WATCHED).iter().find(|(watched, _)| watched == dir).map(|(_, disk)| Arc::clone(disk))?;
    Some((disk, path.file_name()?.to_string_lossy().into_owned()))
}

struct Open {
    disk: Arc<Disk>,
    name: String,
    inode: u64,
    file: File,
    /// A WAL or journal that was just opened: as in SQLite's own VFS, its first sync is one of the directory too.
    fresh: bool,
}

#[repr(C)]
struct Handle {
    base: ffi::sqlite3_file,
    open: *mut Open,
}

/// The VFS that was there before.
struct Real(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's own VFS lives as long as the process and may be used from any thread.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

fn install() {
    REAL.get_or_init(|| {
        // SAFETY: null asks for the default; the copy is leaked, so it lives as long as it is registered.
        unsafe {
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = std::ptr::read(real);
            ours.zName = c"power".as_ptr();
            ours.szOsFile = ours.szOsFile.max(size_of::<Handle>() as c_int);
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1);
            Real(real)
        }
    });
}

fn real() -> *mut ffi::sqlite3_vfs {
    REAL.get().map_or(std::ptr::null_mut(), |real| real.0)
}

fn path_of(name: *const c_char) -> Option<PathBuf> {
    // SAFETY: SQLite gives a path that ends with a zero, or null for a temporary file.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some((path, (disk, name))) = path_of(name).and_then(|p| watched(&p).map(|w| (p, w))) else {
        // SAFETY: the arguments are those the real one was meant to get; the room is at least what it asks for.
        return unsafe { (*real()).xOpen.expect("every VFS opens")(real(), name, file, flags, out) };
    };
    // SAFETY: SQLite gives room of `szOsFile` bytes, which holds a Handle. Without methods it is not closed.
    unsafe { (*file).pMethods = std::ptr::null() };
    if let Some(code) = disk.call(Call::Open, &name) {
        return code;
    }
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let fresh = create && flags & ffi::SQLITE_OPEN_MAIN_DB == 0;
    let Ok(opened) = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path)
    else {
        return ffi::SQLITE_CANTOPEN;
    };
    let Ok(meta) = opened.metadata() else { return ffi::SQLITE_CANTOPEN };
    disk.open(&name, meta.ino());
    let open = Box::into_raw(Box::new(Open { disk, name, inode: meta.ino(), file: opened, fresh }));
    // SAFETY: as above; `out` may be null.
    unsafe {
        let handle = file.cast::<Handle>();
        (*handle).open = open;
        (*handle).base.pMethods = &raw const METHODS;
        if !out.is_null() {
            *out = flags;
        }
    }
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if let Some((disk, file)) = path_of(name).and_then(|p| watched(&p)) {
        if let Some(code) = disk.call(Call::Delete, &file) {
            return code;
        }
        held(&disk.image).remove(&file);
        held(&disk.inodes).remove(&file);
        if sync != 0 && !*held(&disk.lies) {
            held(&disk.image).sync_dir();
        }
    }
    // SAFETY: the arguments are those the real one was meant to get.
    unsafe { (*real()).xDelete.expect("every VFS deletes")(real(), name, 0) }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    // The store holds a lock of its own, and only one connection.
    xLock: Some(ok),
    xUnlock: Some(ok),
    xCheckReservedLock: Some(none),
    xFileControl: Some(control),
    xSectorSize: Some(sector),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// What `open` put there.
///
/// # Safety
/// `file` was opened by `open` above and is not closed.
// SAFETY: only the methods below call it, with the file SQLite gave them.
unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: SQLite calls the methods of one file one at a time, between open and close.
    unsafe { &mut *(*file.cast::<Handle>()).open }
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: it was made by Box::into_raw in `open`, and SQLite closes once.
    drop(unsafe { Box::from_raw((*file.cast::<Handle>()).open) });
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, n: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives `n` bytes of room, and an open file.
    let (open, to) = unsafe { (of(file), std::slice::from_raw_parts_mut(to.cast::<u8>(), n as usize)) };
    if let Some(code) = open.disk.call(Call::Read, &open.name) {
        return code;
    }
    if open.disk.is_bad(open.inode, at as u64..at as u64 + to.len() as u64) {
        return ffi::SQLITE_IOERR_READ;
    }
    let mut done = 0;
    while done < to.len() {
        match open.file.read_at(&mut to[done..], at as u64 + done as u64) {
            Ok(0) => {
                to[done..].fill(0);
                return ffi::SQLITE_IOERR_SHORT_READ;
            }
            Ok(n) => done += n,
            Err(_) => return ffi::SQLITE_IOERR_READ,
        }
    }
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, n: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives `n` bytes, and an open file.
    let (open, from) = unsafe { (of(file), std::slice::from_raw_parts(from.cast::<u8>(), n as usize)) };
    if let Some(code) = open.disk.call(Call::Write, &open.name) {
        return code;
    }
    held(&open.disk.image).write(&open.name, at as u64, from);
    open.file.write_all_at(from, at as u64).map_or(ffi::SQLITE_IOERR_WRITE, |()| ffi::SQLITE_OK)
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: an open file.
    let open = unsafe { of(file) };
    if let Some(code) = open.disk.call(Call::Truncate, &open.name) {
        return code;
    }
    held(&open.disk.image).resize(&open.name, len as u64);
    open.file.set_len(len as u64).map_or(ffi::SQLITE_IOERR_TRUNCATE, |()| ffi::SQLITE_OK)
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: an open file.
    let open = unsafe { of(file) };
    if let Some(code) = open.disk.call(Call::Sync, &open.name) {
        if code == ffi::SQLITE_IOERR_FSYNC {
            held(&open.disk.image).sync_failed(&open.name);
        }
        return code;
    }
    if !*held(&open.disk.lies) {
        let mut image = held(&open.disk.image);
        image.sync(&open.name);
        if std::mem::take(&mut open.fresh) {
            image.sync_dir();
        }
    }
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: an open file, and room for the answer.
    unsafe {
        let Ok(meta) = of(file).file.metadata() else { return ffi::SQLITE_IOERR_FSTAT };
        *out = meta.len() as i64;
    }
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn ok(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn none(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: room for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn sector(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// As the real one says by default: a write does not harm the bytes beside it.
// SAFETY: only SQLite calls it, with what the VFS interface says.
unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
