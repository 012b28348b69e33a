//! The master key and its file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Error;
use crate::crypto::random;

/// Bytes of a master key.
const LENGTH: usize = 32;

/// A random key has fewer different bytes than this once in 10^38 times; a placeholder, a repeated word or zeros do.
const MIN_DIFFERENT: usize = 8;

/// The secret that everything sealed depends on.
pub struct MasterKey(Zeroizing<[u8; LENGTH]>);

impl MasterKey {
    /// From exactly 32 bytes that look random: all-equal bytes and other obvious placeholders are refused (requirement
    /// NP-4).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let key: [u8; LENGTH] = bytes.try_into().map_err(|_| Error::WeakKey("must be 32 bytes"))?;
        let key = Zeroizing::new(key);
        let mut seen = [false; 256];
        for &byte in key.iter() {
            if let Some(seen) = seen.get_mut(usize::from(byte)) {
                *seen = true;
            }
        }
        if seen.iter().filter(|seen| **seen).count() < MIN_DIFFERENT {
            return Err(Error::WeakKey("is not random: make one with `openssl rand -base64 32`"));
        }
        Ok(Self(key))
    }

    /// The key in the file at `path`, base64 in a line; makes a new one when there is no such file.
    ///
    /// A new file has mode 0600 and is durable, with its folder's entry, before this returns. A file that others may
    /// read, or that holds no good key, is an error and is left alone.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        match create(path) {
            Ok(key) => Ok(key),
            // Another process made it in this moment: theirs is the key.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                load(path, File::open(path).map_err(|error| file_error(path, &error))?)
            }
            Err(error) => Err(file_error(path, &error)),
        }
    }

    /// The key in the file at `path`; `None`: there is no such file. It is as strict as [`MasterKey::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        match File::open(path) {
            Ok(file) => load(path, file).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error(path, &error)),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Reads the key from an opened file, whose mode is asked for by the handle, so that it is this very file's.
fn load(path: &Path, file: File) -> Result<MasterKey, Error> {
    let problem = |problem: &str| Error::File { path: path.to_owned(), problem: problem.to_owned() };
    let mode = file.metadata().map_err(|error| file_error(path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(problem(&format!("its mode is {:04o}, so that others may use it: set it to 0600", mode & 0o7777)));
    }
    let mut text = Zeroizing::new(String::with_capacity(128));
    // A key is 44 characters; the bound keeps a wrong path, to a device or a large file, from being read on and on.
    file.take(128).read_to_string(&mut text).map_err(|error| file_error(path, &error))?;
    let damaged = "it holds no key (32 bytes in base64); restore it from a backup, for what is stored can't be read without it";
    let bytes = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new).map_err(|_| problem(damaged))?;
    MasterKey::from_bytes(&bytes).map_err(|_| problem(damaged))
}

/// Makes the file, if it does not exist, with a new key.
fn create(path: &Path) -> io::Result<MasterKey> {
    let key = Zeroizing::new(random::bytes::<LENGTH>());
    let mut text = Zeroizing::new(STANDARD.encode(key.as_slice()));
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
        // It is ours and nothing depends on it yet; left there half written, it would stop every later start.
        return Err(fs::remove_file(path).err().unwrap_or(error));
    }
    sync_folder(path)?;
    Ok(MasterKey(key))
}

/// Makes the folder's entry for `path` durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

pub(super) fn file_error(path: &Path, error: &io::Error) -> Error {
    Error::File { path: path.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        match MasterKey::load_or_create(path) {
            Ok(_) => panic!("a key came out of {}", path.display()),
            Err(error) => error.to_string(),
        }
    }

    // NP-4: no key that is short or known.
    #[test]
    fn weak_keys_are_refused() {
        assert!(MasterKey::from_bytes(&random::bytes::<32>()).is_ok());
        for bad in
            [&b""[..], &[7; 31], &[7; 33], &[0; 32], &[7; 32], b"abababababababababababababababab", b"passwordpasswordpasswordpassword"]
        {
            assert!(MasterKey::from_bytes(bad).is_err(), "{bad:?}");
        }
    }

    // NP-4: a missing key is made, with mode 0600, and stays.
    #[test]
    fn a_new_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let made = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(MasterKey::load_or_create(&path).unwrap().as_bytes(), made.as_bytes());
        let other = MasterKey::load_or_create(&folder.path().join("other.key")).unwrap();
        assert_ne!(other.as_bytes(), made.as_bytes());
        assert_eq!(format!("{made:?}"), "MasterKey(..)");
    }

    // CFG-3: an unreadable security file stops the start and is not replaced.
    #[test]
    fn damaged_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let good = STANDARD.encode(random::bytes::<32>());
        for bad in [
            "",
            "\n",
            "not base64!",
            "AAAA",
            good.get(..40).unwrap(),
            &good.replace('=', ""),
            &format!("{good}{good}"),
            &STANDARD.encode([0; 32]),
            &good.repeat(10),
        ] {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap().write_all(bad.as_bytes()).unwrap();
            assert!(refused(&path).contains("holds no key"), "{bad:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        fs::write(&path, [0xff, 0xfe, 0xfd]).unwrap();
        refused(&path);
        refused(folder.path());
        refused(&folder.path().join("no such folder/master.key"));
    }

    #[test]
    fn files_that_others_may_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        MasterKey::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refused(&path).contains("0600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(MasterKey::load_or_create(&path).is_ok());
    }
}
