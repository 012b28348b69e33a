use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{Action, Outcome, UserId};

fn key(byte: u8) -> ChainKey {
    ChainKey::new(Zeroizing::new([byte; 32]))
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn event(number: i64, text: &str) -> AuditEvent {
    AuditEvent {
        id: EventId::new(),
        at: at(number),
        action: Action::UserLogin,
        outcome: Outcome::Success,
        user: Some(UserId::from_bytes([1; 16])),
        actor: Some(text.to_owned()),
        client: None,
        request_id: None,
        details: BTreeMap::new(),
    }
}

fn put(key: &ChainKey, chain: &mut Chain, event: &AuditEvent) -> Filed {
    let record = record::encode(event).unwrap();
    let place = key.append(chain, &record, event.at);
    Filed { seq: place.seq, stored: Some(StoredEvent { place: Some(place), record }), is_listed: true }
}

fn log(texts: &[String]) -> (ChainKey, Chain, Vec<Filed>) {
    let key = key(1);
    let mut chain = key.begin(WriterId::FIRST, at(0));
    let events = texts.iter().zip(1..).map(|(text, number)| put(&key, &mut chain, &event(number, text))).collect();
    (key, chain, events)
}

fn verify(key: &ChainKey, chain: &Chain, events: &[Filed]) -> Result<Walk, Fault> {
    let mut walk = Walk::begin(key, chain)?;
    for event in events {
        walk.step(key, chain.writer, event)?;
    }
    walk.arrive(chain)?;
    Ok(walk)
}

/// What somebody could do who may write the store and has no key. The positions are taken modulo the length.
#[derive(Clone, Debug)]
enum Tampering {
    Remove(prop::sample::Index),
    CutOff(prop::sample::Index),
    /// And give the head the link of what is then the last.
    CutOffNeatly(prop::sample::Index),
    Flip(prop::sample::Index, prop::sample::Index, u8),
    FlipLink(prop::sample::Index, prop::sample::Index, u8),
    Swap(prop::sample::Index),
    /// Records only, so that numbers and links stay in order.
    SwapRecords(prop::sample::Index),
    Double(prop::sample::Index),
    /// A made-up event, and all after it move up by one.
    Insert(prop::sample::Index),
    Unlist(prop::sample::Index),
    /// What retention would do, without the signature.
    RemoveOldest(prop::sample::Index),
    /// An event of another chain of the same key.
    Borrow(prop::sample::Index),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Tampering::Remove),
        index().prop_map(Tampering::CutOff),
        index().prop_map(Tampering::CutOffNeatly),
        (index(), index(), 1..=255u8).prop_map(|(at, byte, by)| Tampering::Flip(at, byte, by)),
        (index(), index(), 1..=255u8).prop_map(|(at, byte, by)| Tampering::FlipLink(at, byte, by)),
        index().prop_map(Tampering::Swap),
        index().prop_map(Tampering::SwapRecords),
        index().prop_map(Tampering::Double),
        index().prop_map(Tampering::Insert),
        index().prop_map(Tampering::Unlist),
        index().prop_map(Tampering::RemoveOldest),
        index().prop_map(Tampering::Borrow),
    ]
}

fn renumber(events: &mut [Filed]) {
    for (event, seq) in events.iter_mut().zip(1..) {
        event.seq = seq;
        event.stored.as_mut().unwrap().place.as_mut().unwrap().seq = seq;
    }
}

fn tamper(how: &Tampering, chain: &mut Chain, events: &mut Vec<Filed>, other: &[Filed]) {
    let len = events.len();
    match how {
        Tampering::Remove(at) => drop(events.remove(at.index(len))),
        Tampering::CutOff(at) => events.truncate(at.index(len)),
        Tampering::CutOffNeatly(at) => {
            events.truncate(at.index(len));
            let last = events.last().and_then(|last| last.stored.as_ref()?.place);
            (chain.head.seq, chain.head.link) = last.map_or((0, chain.base.link), |place| (place.seq, place.link));
        }
        Tampering::Flip(at, byte, by) => {
            let record = &mut events[at.index(len)].stored.as_mut().unwrap().record;
            let byte = byte.index(record.len());
            record[byte] ^= by;
        }
        Tampering::FlipLink(at, byte, by) => {
            let place = events[at.index(len)].stored.as_mut().unwrap().place.as_mut().unwrap();
            place.link.0[byte.index(32)] ^= by;
        }
        Tampering::Swap(at) => {
            let at = at.index(len - 1);
            events.swap(at, at + 1);
            renumber(events);
        }
        Tampering::SwapRecords(at) => {
            let at = at.index(len - 1);
            let [a, b] = [at, at + 1].map(|at| events[at].stored.as_ref().unwrap().record.clone());
            events[at].stored.as_mut().unwrap().record = b;
            events[at + 1].stored.as_mut().unwrap().record = a;
        }
        Tampering::Double(at) => {
            let at = at.index(len);
            events.insert(at, events[at].clone());
        }
        Tampering::Insert(at) => {
            let at = at.index(len + 1);
            let mut made_up = events[at.min(len - 1)].clone();
            made_up.stored.as_mut().unwrap().record = record::encode(&event(5, "made up")).unwrap();
            events.insert(at, made_up);
            renumber(events);
        }
        Tampering::Unlist(at) => events[at.index(len)].is_listed = false,
        Tampering::RemoveOldest(at) => {
            let last = events.drain(..=at.index(len)).next_back().unwrap().stored.unwrap().place.unwrap();
            (chain.base.seq, chain.base.link) = (last.seq, last.link);
        }
        Tampering::Borrow(at) => {
            let at = at.index(len);
            events[at] = other[at].clone();
        }
    }
}

proptest! {
    // NP-10: any removal, change, exchange or insertion is found, wherever it is.
    #[test]
    fn whatever_is_done_without_the_key_is_found(texts in proptest::collection::vec("\\PC{0,12}", 2..9), how in tampering()) {
        let (key, mut chain, mut events) = log(&texts);
        let (_, _, other) = log(&texts);
        let whole = verify(&key, &chain, &events).unwrap();
        prop_assert_eq!(whole.seq, u64::try_from(texts.len()).unwrap());
        tamper(&how, &mut chain, &mut events, &other);
        prop_assert!(verify(&key, &chain, &events).is_err(), "{:?}", how);
    }

    // The first bad one is named: everything before it holds.
    #[test]
    fn the_first_bad_event_is_named(count in 2usize..9, at: prop::sample::Index) {
        let texts = vec![String::new(); count];
        let (key, chain, mut events) = log(&texts);
        let at = at.index(count);
        let seq = u64::try_from(at).unwrap() + 1;
        let id = events[at].stored.as_ref().unwrap().event().unwrap().id;
        let changed = AuditEvent { outcome: Outcome::Failure, ..events[at].stored.as_ref().unwrap().event().unwrap() };
        events[at].stored.as_mut().unwrap().record = record::encode(&changed).unwrap();
        prop_assert_eq!(verify(&key, &chain, &events), Err(Fault::Changed { seq, id: Some(id) }));
        events.remove(at);
        prop_assert_eq!(verify(&key, &chain, &events), Err(Fault::Missing { seq }));
    }

    // Retention may take the oldest away, and only who has the key may.
    #[test]
    fn what_retention_leaves_holds(count in 1usize..9, cut: prop::sample::Index) {
        let texts = vec![String::new(); count];
        let (key, mut chain, mut events) = log(&texts);
        let cut = cut.index(count);
        let last = events.drain(..=cut).next_back().unwrap().stored.unwrap().place.unwrap();
        prop_assert!(verify(&key, &chain, &events).is_err());
        key.cut(&mut chain, &last, at(99));
        prop_assert!(verify(&key, &chain, &events).is_ok());
        // And it goes on from there.
        events.push(put(&key, &mut chain, &event(100, "next")));
        prop_assert!(verify(&key, &chain, &events).is_ok());
        events.remove(0);
        prop_assert!(verify(&key, &chain, &events).is_err());
    }
}

#[test]
fn another_key_holds_nothing() {
    let (_, chain, events) = log(&["a".to_owned()]);
    assert_eq!(verify(&key(2), &chain, &events), Err(Fault::Base));
}

#[test]
fn one_chain_does_not_stand_in_for_another() {
    let key = key(1);
    let (one, two) = (key.begin(WriterId(1), at(0)), key.begin(WriterId(1), at(0)));
    assert_ne!(one.base.link, two.base.link);
    assert_eq!(verify(&key, &Chain { writer: WriterId(2), ..one }, &[]), Err(Fault::Base));
    // An end is no beginning.
    assert_eq!(verify(&key, &Chain { base: one.head, ..one }, &[]), Err(Fault::Base));
}

#[test]
fn an_exported_head_shows_what_was_cut_off_or_rewritten() {
    let (key, chain, events) = log(&["a".to_owned(), "b".to_owned()]);
    let walk = verify(&key, &chain, &events).unwrap();
    assert_eq!(walk.meets(&walk), Ok(()));
    let other = Walk { link: chain.base.link, ..walk };
    assert_eq!(walk.meets(&other), Err(Fault::Rewritten { seq: 2 }));
    assert_eq!(walk.meets(&Walk { seq: 1, ..other }), Ok(()), "of another event it says nothing");
}
