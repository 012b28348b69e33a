//! Forms that met a session that was over: sealed for the person whose session it was, carried by their browser through
//! the sign-in, and sent on once (contract, section 5, "A small urlencoded form POST"). The store holds nothing of them
//! but the mark that one was sent.

use std::fmt;
use std::time::Duration;

use super::{Auth, Error};
use crate::clock::Timestamp;
use crate::crypto::seal::Purpose;
use crate::model::{Digest, Sealed, Secret, UserId};
use crate::store;

/// How long after it was sent first a form may be sent again.
pub const LIFE: Duration = Duration::from_secs(30 * 60);

/// A form that is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// The right to send it on, once.
    pub ticket: Ticket,
    /// The names of the fields that were left out, as they were encoded.
    pub left_out: Vec<Vec<u8>>,
    /// The other fields, as they were encoded.
    pub fields: Secret<Vec<u8>>,
}

/// Nothing of what somebody typed.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} bytes)", self.fields.expose().len())
    }
}

/// The right to send a form on, once: the very same one however often the form is sealed, offered or kept once more, so
/// that it goes on once, in whichever tab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// When the form was sent first.
    pub at: Timestamp,
    /// Which sending of which form.
    pub id: Digest,
    /// The path and query that it goes to.
    pub target: String,
}

impl Ticket {
    /// A new right: for a form that comes first, or for somebody who was told that theirs is spent.
    pub fn new(at: Timestamp, target: String) -> Self {
        Self { at, id: Digest(crate::crypto::random::bytes()), target }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.at.as_millis().to_be_bytes().to_vec();
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.target.as_bytes());
        bytes
    }

    /// What [`Self::bytes`] wrote, if the form was sent not more than [`LIFE`] ago.
    fn read(bytes: &[u8], now: Timestamp) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk::<8>()?;
        let at = Timestamp::from_millis(i64::from_be_bytes(*at));
        let (id, target) = rest.split_first_chunk::<32>()?;
        let target = String::from_utf8(target.to_vec()).ok()?;
        (now.since(at) <= LIFE).then_some(Self { at, id: Digest(*id), target })
    }
}

/// What is sealed; the first part of the associated data, none of which begins another.
#[derive(Clone, Copy)]
enum Sort {
    Form,
    Ticket,
}

impl Auth {
    /// Seals a form for `user`, for POST requests to `authority` alone (requirement KEPT-1).
    pub fn seal_kept(&self, user: UserId, authority: &str, kept: &Kept) -> Sealed {
        let mut plain = Vec::new();
        push(&mut plain, &kept.ticket.bytes());
        push(&mut plain, &kept.left_out.join(&b'&'));
        plain.extend_from_slice(kept.fields.expose());
        self.storage_key.seal(Purpose::PendingPost, &bound(Sort::Form, user, authority), &plain)
    }

    /// A form that was sealed for this user and this authority not more than [`LIFE`] ago.
    pub fn open_kept(&self, user: UserId, authority: &str, sealed: &Sealed, now: Timestamp) -> Option<Kept> {
        let plain = self.storage_key.open(Purpose::PendingPost, &bound(Sort::Form, user, authority), sealed).ok()?;
        let (ticket, rest) = pull(&plain)?;
        let (left_out, fields) = pull(rest)?;
        Some(Kept {
            ticket: Ticket::read(ticket, now)?,
            left_out: left_out.split(|byte| *byte == b'&').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect(),
            fields: Secret::new(fields.to_vec()),
        })
    }

    /// Seals the right of `user` to send a form on to `authority`.
    pub fn seal_ticket(&self, user: UserId, authority: &str, ticket: &Ticket) -> Sealed {
        self.storage_key.seal(Purpose::PendingPost, &bound(Sort::Ticket, user, authority), &ticket.bytes())
    }

    /// A ticket of this user's, for this authority, whose form was sent not more than [`LIFE`] ago.
    pub fn open_ticket(&self, user: UserId, authority: &str, sealed: &Sealed, now: Timestamp) -> Option<Ticket> {
        let plain = self.storage_key.open(Purpose::PendingPost, &bound(Sort::Ticket, user, authority), sealed).ok()?;
        Ticket::read(&plain, now)
    }

    /// Spends a ticket: true exactly once.
    pub async fn spend_ticket(&self, ticket: &Ticket) -> Result<bool, Error> {
        // Until it can't be opened any more, and a little longer: clocks differ.
        let until = ticket.at.plus(LIFE * 2);
        Ok(self.store.spend_once(store::Purpose::KeptForm, ticket.id, until).await?)
    }

    /// Whose a session token is or was: the signature is ours, whether or not its time or its session is over.
    /// Nobody is let in by this.
    pub fn owner_of_past_session(&self, token: &str) -> Option<UserId> {
        self.keyring.load().read_session(token).ok().map(|claims| claims.sub)
    }
}

/// The associated data behind the purpose's: the kind, the user (of fixed length), the method and the authority.
fn bound(sort: Sort, user: UserId, authority: &str) -> Vec<u8> {
    let sort: &[u8] = match sort {
        Sort::Form => b"form:",
        Sort::Ticket => b"ticket:",
    };
    [sort, user.as_bytes(), b"POST ", authority.as_bytes()].concat()
}

/// Appends `part` with its length, which is far below 4 GiB for whatever a request can hold.
fn push(plain: &mut Vec<u8>, part: &[u8]) {
    plain.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(part);
}

fn pull(plain: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let mut plain = Vec::new();
        push(&mut plain, b"ab");
        push(&mut plain, b"");
        plain.extend_from_slice(b"c");
        let (first, rest) = pull(&plain).unwrap();
        let (second, rest) = pull(rest).unwrap();
        assert_eq!((first, second, rest), (&b"ab"[..], &b""[..], &b"c"[..]));
        assert!(pull(b"\0\0\0\x02a").is_none() && pull(b"\0\0").is_none());
    }

    #[test]
    fn a_form_shows_nothing_of_itself() {
        let ticket = Ticket::new(Timestamp::from_secs(0), "/secret".into());
        let kept = Kept { ticket, left_out: Vec::new(), fields: Secret::new(b"canary".to_vec()) };
        assert_eq!(format!("{kept:?}"), "Kept(6 bytes)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(plain in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some((part, rest)) = pull(&plain) {
                prop_assert_eq!(part.len() + rest.len() + 4, plain.len());
            }
        }
    }
}
