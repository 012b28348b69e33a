//! A list of one's account in pages, so that none of them grows with what a person has. Which page is wanted stands in the
//! address (`?page=2`), also where a form of it is sent to, so that who ends something stays where they were.

use crate::web::call::Call;

/// How far back pages reach.
const MAX_PAGE: usize = 100_000;

/// The page that is shown, and what there is beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paging {
    /// From 1.
    pub(super) number: usize,
    /// How many there are, where that is known.
    pub(super) all: Option<usize>,
    /// Whether there is one after it.
    more: bool,
}

impl Paging {
    /// Leaves those of a list that stand on the page that is asked for, `size` to a page. A number beyond the end leads to
    /// the last.
    pub(super) fn cut<T>(call: &Call<'_>, size: usize, list: &mut Vec<T>) -> Self {
        Self::at(asked(call), size, list)
    }

    fn at<T>(asked: usize, size: usize, list: &mut Vec<T>) -> Self {
        let all = list.len().div_ceil(size).max(1);
        let number = asked.min(all);
        list.drain(..((number - 1) * size).min(list.len()));
        list.truncate(size);
        Self { number, all: Some(all), more: number < all }
    }

    /// The page that is asked for of a list whose length nobody knows. `read`: what [`Self::window`] asks for.
    pub(super) fn of_window<T>(call: &Call<'_>, size: usize, read: &mut Vec<T>) -> Self {
        let more = read.len() > size;
        read.truncate(size);
        Self { number: asked(call), all: None, more }
    }

    /// How many entries stand before the page that is asked for, and how many to read: one more than there is room for.
    pub(super) fn window(call: &Call<'_>, size: usize) -> (usize, usize) {
        ((asked(call) - 1).saturating_mul(size), size + 1)
    }

    /// The page before, with later entries.
    pub(super) fn newer(self) -> Option<usize> {
        self.number.checked_sub(1).filter(|number| *number > 0)
    }

    /// The page after.
    pub(super) fn older(self) -> Option<usize> {
        self.more.then_some(self.number + 1)
    }

    /// Whether this is not all there is.
    pub(super) fn is_part(self) -> bool {
        self.newer().is_some() || self.more
    }

    /// For the address of what belongs to this page: nothing for the first.
    pub(super) fn query(self) -> String {
        query(self.number)
    }
}

/// `path` on the page that this request is about.
pub(super) fn same_page(call: &Call<'_>, path: &str) -> String {
    format!("{path}{}", query(asked(call)))
}

fn query(number: usize) -> String {
    if number > 1 { format!("?page={number}") } else { String::new() }
}

/// The number in the address. A page is shown whatever stands there.
fn asked(call: &Call<'_>) -> usize {
    call.query().unwrap_or_default().number("page", MAX_PAGE).ok().flatten().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(asked: usize, length: usize) -> (Vec<usize>, Paging) {
        let mut list: Vec<usize> = (0..length).collect();
        let paging = Paging::at(asked, 5, &mut list);
        (list, paging)
    }

    #[test]
    fn a_list_is_cut_into_pages() {
        let (list, paging) = cut(2, 12);
        assert_eq!((list, paging.newer(), paging.older(), paging.query().as_str()), (vec![5, 6, 7, 8, 9], Some(1), Some(3), "?page=2"));
        let (list, paging) = cut(3, 12);
        assert_eq!((list, paging.newer(), paging.older(), paging.all), (vec![10, 11], Some(2), None, Some(3)));
        for length in 0..=5 {
            let (list, paging) = cut(1, length);
            assert_eq!((list.len(), paging.is_part(), paging.query().as_str()), (length, false, ""));
        }
        assert_eq!(cut(MAX_PAGE, 12), cut(3, 12), "beyond the end is the last");
        assert_eq!(cut(2, 0), cut(1, 0));
    }

    proptest! {
        #[test]
        fn every_entry_is_on_one_page(length in 0_usize..60) {
            let all = cut(1, length).1.all.unwrap();
            let shown: Vec<usize> = (1..=all).flat_map(|number| cut(number, length).0).collect();
            prop_assert_eq!(shown, (0..length).collect::<Vec<_>>());
        }
    }
}
