//! Read buffers, which a worker's connections share: one that waits holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// What is read at a time at first, in bytes.
pub(super) const SMALL: usize = 16 * 1024;

/// What is read at a time of a body that has filled a small buffer, in bytes. Twice as much would halve the system calls
/// once more, and double the memory of every large answer.
pub(super) const LARGE: usize = 128 * 1024;

/// Small and large buffers that a worker keeps.
const KEPT: (usize, usize) = (32, 4);

#[derive(Default)]
struct Free {
    small: Vec<BytesMut>,
    large: Vec<BytesMut>,
}

thread_local! {
    /// Nothing holds on to it over an await, so that connections may still move between threads.
    static FREE: RefCell<Free> = const { RefCell::new(Free { small: Vec::new(), large: Vec::new() }) };
}

/// Makes room to read about `size` bytes, which is [`SMALL`] or [`LARGE`].
pub(super) fn make_room(buffer: &mut BytesMut, size: usize) {
    if buffer.capacity() - buffer.len() >= size / 4 {
        return;
    }
    // What was read before may have been written, and its memory be free again.
    if buffer.is_empty() && !buffer.try_reclaim(size) {
        let kept = FREE.with_borrow_mut(|free| if size == SMALL { free.small.pop() } else { free.large.pop() });
        *buffer = kept.unwrap_or_else(|| BytesMut::with_capacity(size));
    } else {
        buffer.reserve(size);
    }
}

/// Gives an empty buffer back.
pub(super) fn give_back(buffer: &mut BytesMut) {
    if !buffer.is_empty() {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    // One that was split is whole again only when nobody holds the other part. One that a long head has made larger than
    // both kinds is not kept.
    let kind = [(LARGE, KEPT.1), (SMALL, KEPT.0)].into_iter().find(|(size, _)| buffer.try_reclaim(*size));
    if let Some((size, most)) = kind
        && buffer.capacity() < 2 * size
    {
        FREE.with_borrow_mut(|free| {
            let free = if size == SMALL { &mut free.small } else { &mut free.large };
            if free.len() < most {
                free.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_unless_somebody_holds_a_part() {
        let kept = || FREE.with_borrow(|free| (free.small.len(), free.large.len()));
        let mut buffer = BytesMut::new();
        make_room(&mut buffer, SMALL);
        assert!(buffer.capacity() >= SMALL);
        give_back(&mut buffer);
        assert_eq!((kept(), buffer.capacity()), ((1, 0), 0));
        make_room(&mut buffer, LARGE);
        buffer.extend_from_slice(&[1; 9000]);
        let part = buffer.split().freeze();
        give_back(&mut buffer);
        assert_eq!(kept(), (1, 0));
        assert_eq!(part.len(), 9000);
        make_room(&mut buffer, LARGE);
        buffer.extend_from_slice(&[1; 9000]);
        drop(buffer.split());
        give_back(&mut buffer);
        assert_eq!(kept(), (1, 1));
        // What is not empty stays.
        make_room(&mut buffer, SMALL);
        buffer.extend_from_slice(b"x");
        give_back(&mut buffer);
        assert_eq!((kept(), &buffer[..]), ((0, 1), &b"x"[..]));
    }
}
