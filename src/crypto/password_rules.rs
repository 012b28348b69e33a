//! What a new password must be: long enough, not too long, and not easy to guess (NIST SP 800-63B, section 5.1.1.2).

use std::fmt;

use super::password::MAX_BYTES;
use crate::config;

/// Characters of a password that its strength is judged by; zxcvbn takes more than linear time.
const JUDGED_CHARS: usize = 128;

/// Why a new password is refused. The text is for the person who chose it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PasswordProblem {
    /// Fewer characters than the least.
    TooShort {
        /// The least, in Unicode code points.
        min: usize,
    },
    /// More bytes than the most.
    TooLong {
        /// The most, in bytes of UTF-8.
        max: usize,
    },
    /// Easy to guess.
    TooWeak {
        /// What is wrong with it and what would help, in English.
        advice: String,
        /// The same, to be said in other languages.
        hints: Vec<Hint>,
    },
    /// A NUL, which other programs take for the end.
    Nul,
}

impl fmt::Display for PasswordProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { min } => write!(f, "must have at least {min} characters"),
            Self::TooLong { max } => write!(f, "must not have more than {max} bytes"),
            Self::TooWeak { advice, hints: _ } => write!(f, "is too easy to guess: {advice}"),
            Self::Nul => f.write_str("must not contain a NUL character"),
        }
    }
}

impl std::error::Error for PasswordProblem {}

/// Why a password is easy to guess, or what would help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    /// It is among the most common ones.
    Common,
    /// It is like a common one.
    Similar,
    /// It is one word.
    Word,
    /// It is a name.
    Name,
    /// Its keys are neighbours.
    Keyboard,
    /// It repeats itself.
    Repeats,
    /// It goes up or down like the alphabet.
    Sequence,
    /// It is a date or a year.
    Dates,
    /// Capitals and exchanged letters don't help.
    Substitutions,
    /// Words are written backwards.
    Reversed,
    /// More words would help.
    MoreWords,
}

/// Whether a new password will do. The least counts code points and any character but NUL is fine (NIST SP 800-63B,
/// section 5.1.1.2); the most counts bytes of UTF-8, which is what hashing it costs. `hints` are words that it should not be made of: the address, the name, the
/// service. Takes up to some milliseconds.
pub fn check(rules: &config::PasswordRules, password: &str, hints: &[&str]) -> Result<(), PasswordProblem> {
    let max = rules.max_length.min(MAX_BYTES);
    if password.len() > max {
        return Err(PasswordProblem::TooLong { max });
    }
    if password.chars().count() < rules.min_length {
        return Err(PasswordProblem::TooShort { min: rules.min_length });
    }
    if password.contains('\0') {
        return Err(PasswordProblem::Nul);
    }
    if rules.min_strength == 0 {
        return Ok(());
    }
    let judged = password.char_indices().nth(JUDGED_CHARS).and_then(|(end, _)| password.get(..end)).unwrap_or(password);
    let estimate = zxcvbn::zxcvbn(judged, hints);
    if u8::from(estimate.score()) >= rules.min_strength {
        return Ok(());
    }
    Err(PasswordProblem::TooWeak { advice: advice(&estimate), hints: kinds(&estimate) })
}

/// zxcvbn's warning and suggestions as one line.
fn advice(estimate: &zxcvbn::Entropy) -> String {
    let parts: Vec<String> = estimate
        .feedback()
        .map(|feedback| {
            feedback.warning().iter().map(ToString::to_string).chain(feedback.suggestions().iter().map(ToString::to_string)).collect()
        })
        .unwrap_or_default();
    if parts.is_empty() { "Add another word or two. Uncommon words are better.".to_owned() } else { parts.join(" ") }
}

/// zxcvbn's warning and suggestions, each kind once; there is always one that helps.
fn kinds(estimate: &zxcvbn::Entropy) -> Vec<Hint> {
    use zxcvbn::feedback::{Suggestion, Warning};
    let warning = estimate.feedback().and_then(zxcvbn::feedback::Feedback::warning).map(|warning| match warning {
        Warning::StraightRowsOfKeysAreEasyToGuess | Warning::ShortKeyboardPatternsAreEasyToGuess => Hint::Keyboard,
        Warning::RepeatsLikeAaaAreEasyToGuess | Warning::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess => Hint::Repeats,
        Warning::ThisIsATop10Password | Warning::ThisIsATop100Password | Warning::ThisIsACommonPassword => Hint::Common,
        Warning::ThisIsSimilarToACommonlyUsedPassword => Hint::Similar,
        Warning::SequencesLikeAbcAreEasyToGuess => Hint::Sequence,
        Warning::RecentYearsAreEasyToGuess | Warning::DatesAreOftenEasyToGuess => Hint::Dates,
        Warning::AWordByItselfIsEasyToGuess => Hint::Word,
        Warning::NamesAndSurnamesByThemselvesAreEasyToGuess | Warning::CommonNamesAndSurnamesAreEasyToGuess => Hint::Name,
    });
    let suggestions = estimate.feedback().map(zxcvbn::feedback::Feedback::suggestions).unwrap_or_default();
    let suggested = suggestions.iter().map(|suggestion| match suggestion {
        Suggestion::UseAFewWordsAvoidCommonPhrases
        | Suggestion::NoNeedForSymbolsDigitsOrUppercaseLetters
        | Suggestion::AddAnotherWordOrTwo => Hint::MoreWords,
        Suggestion::CapitalizationDoesntHelpVeryMuch
        | Suggestion::AllUppercaseIsAlmostAsEasyToGuessAsAllLowercase
        | Suggestion::PredictableSubstitutionsDontHelpVeryMuch => Hint::Substitutions,
        Suggestion::ReversedWordsArentMuchHarderToGuess => Hint::Reversed,
        Suggestion::UseALongerKeyboardPatternWithMoreTurns => Hint::Keyboard,
        Suggestion::AvoidRepeatedWordsAndCharacters => Hint::Repeats,
        Suggestion::AvoidSequences => Hint::Sequence,
        Suggestion::AvoidRecentYears
        | Suggestion::AvoidYearsThatAreAssociatedWithYou
        | Suggestion::AvoidDatesAndYearsThatAreAssociatedWithYou => Hint::Dates,
    });
    let mut hints = Vec::new();
    for hint in warning.into_iter().chain(suggested).chain([Hint::MoreWords]) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: config::PasswordRules = config::PasswordRules { min_length: 8, max_length: 1024, min_strength: 2 };
    const LENGTHS_ONLY: config::PasswordRules = config::PasswordRules { min_strength: 0, ..RULES };

    #[test]
    fn the_least_counts_characters_and_the_most_bytes() {
        for (length, expected) in [
            (0, Err(PasswordProblem::TooShort { min: 8 })),
            (7, Err(PasswordProblem::TooShort { min: 8 })),
            (8, Ok(())),
            (1024, Ok(())),
            (1025, Err(PasswordProblem::TooLong { max: 1024 })),
        ] {
            assert_eq!(check(&LENGTHS_ONLY, &"x".repeat(length), &[]), expected, "{length}");
        }
        assert_eq!(check(&LENGTHS_ONLY, "ÄÖÜßÄÖÜß", &[]), Ok(()));
        assert_eq!(check(&LENGTHS_ONLY, "ÄÖÜßÄÖÜ", &[]), Err(PasswordProblem::TooShort { min: 8 }));
        assert_eq!(check(&LENGTHS_ONLY, &"ß".repeat(513), &[]), Err(PasswordProblem::TooLong { max: 1024 }));
        let unbounded = config::PasswordRules { max_length: usize::MAX, ..LENGTHS_ONLY };
        assert_eq!(check(&unbounded, &"x".repeat(1025), &[]), Err(PasswordProblem::TooLong { max: 1024 }));
        assert_eq!(check(&LENGTHS_ONLY, "12345678\0", &[]), Err(PasswordProblem::Nul));
        assert_eq!(check(&LENGTHS_ONLY, "tab\tnew\nline", &[]), Ok(()));
    }

    #[test]
    fn weak_passwords_are_refused_with_advice() {
        for weak in ["password", "12345678", "qwertyuiop", "aaaaaaaaaaaaaaaa", "ada.lovelace@example.com"] {
            let problem = check(&RULES, weak, &["ada.lovelace@example.com", "nullpass"]).unwrap_err();
            assert!(
                matches!(&problem, PasswordProblem::TooWeak { advice, hints } if !advice.is_empty() && !hints.is_empty()),
                "{weak}: {problem:?}"
            );
        }
        assert_eq!(check(&RULES, "correct horse battery staple", &[]), Ok(()));
        assert_eq!(check(&config::PasswordRules { min_strength: 4, ..RULES }, "kT9#vQ2!mZ7&pL4x", &[]), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_passes_is_as_long_as_it_must_be(password in ".*", hint in ".*") {
            let fits = password.chars().count() >= 8 && password.len() <= 1024;
            prop_assert!(check(&RULES, &password, &[&hint]).is_err() || fits);
        }
    }
}
