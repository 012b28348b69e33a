//! How a model value becomes bytes: one version byte, then JSON. JSON, because a field that is added with a default
//! reads old records; the version byte, because a change that a default can't bridge must be noticed, not guessed.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// The version this release writes, and the only one it reads.
pub const VERSION: u8 = 1;

/// The largest record in bytes. A store is for small records: sled, for one, keeps large ones as files that it does not
/// give back.
pub const MAX_BYTES: usize = 16 * 1024;

/// `value` as a record. [`Error::TooLarge`]: it has more than [`MAX_BYTES`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.push(VERSION);
    serde_json::to_writer(&mut bytes, value).map_err(|error| Error::Corrupt(describe::<T>(&error)))?;
    fits(&bytes)?;
    Ok(bytes)
}

/// The value of a record. [`Error::Newer`]: a newer release wrote it. [`Error::Corrupt`]: it is none.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| Error::Corrupt(describe::<T>(&error))),
        Some((&found, _)) if found > VERSION => Err(Error::Newer { found: found.into(), known: VERSION.into() }),
        Some(_) | None => Err(Error::Corrupt(format!("{} without a version", name::<T>()))),
    }
}

/// Whether `bytes` may be stored. [`Error::TooLarge`]: there are more than [`MAX_BYTES`].
pub const fn fits(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_BYTES { Err(Error::TooLarge(bytes.len())) } else { Ok(()) }
}

/// What is wrong and where, without the text that is wrong: an error may be logged, a record may not.
fn describe<T>(error: &serde_json::Error) -> String {
    format!("{}, {:?} error at byte {}", name::<T>(), error.classify(), error.column())
}

/// The type's own name, without its path.
fn name<T>() -> &'static str {
    let path = std::any::type_name::<T>();
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::model::Lock;

    #[test]
    fn refuses_what_a_newer_release_wrote() {
        let mut bytes = encode(&Lock::default()).unwrap();
        bytes[0] = 2;
        let error = decode::<Lock>(&bytes).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 2, known: 1 }), "{error}");
        bytes[0] = 0;
        assert!(matches!(decode::<Lock>(&bytes), Err(Error::Corrupt(_))));
        assert!(matches!(decode::<Lock>(&[]), Err(Error::Corrupt(_))));
    }

    #[test]
    fn refuses_what_is_too_large() {
        assert!(encode(&"x".repeat(MAX_BYTES - 3)).is_ok());
        assert!(matches!(encode(&"x".repeat(MAX_BYTES - 2)), Err(Error::TooLarge(size)) if size == MAX_BYTES + 1));
    }

    #[test]
    fn errors_do_not_repeat_the_record() {
        let error = decode::<Lock>(b"\x01{\"failures\":\"s3cret\"}").unwrap_err().to_string();
        assert!(error.contains("Lock") && !error.contains("s3cret"), "{error}");
    }

    proptest! {
        #[test]
        fn round_trips(failures: u32, last: i64, until: i64) {
            let lock = Lock { failures, last_failure_at: Timestamp::from_millis(last), locked_until: Timestamp::from_millis(until) };
            prop_assert_eq!(decode::<Lock>(&encode(&lock).unwrap()).unwrap(), lock);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(decode::<Lock>(&bytes));
        }
    }
}
