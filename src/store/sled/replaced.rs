//! Freeing what sled has replaced.

/// Hands over what this thread has replaced, and frees what no thread can still read.
///
/// sled leaves both to crossbeam-epoch, where a thread keeps up to 64 replaced things to itself until it replaces more. Each of
/// them may be the last to hold half a mebibyte of log that was written long ago.
pub(super) fn free() {
    crossbeam_epoch::pin().flush();
}
