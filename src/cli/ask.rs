//! Questions to the person at the terminal. Without a terminal there is nobody to ask, and a script gets an error
//! instead of a prompt that waits for ever.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write as _};

use zeroize::{Zeroize as _, Zeroizing};

use super::Failure;
use crate::model::Secret;

/// The longest line that is read as a password, in bytes; longer than any password may be.
const LONGEST: u64 = 4096;

/// A new password: the first line of standard input, or typed twice.
pub(super) fn new_password(from_stdin: bool) -> Result<Secret<String>, Failure> {
    if from_stdin {
        return first_line(&mut io::stdin().lock());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask for the password on: give it with --password-stdin".to_owned()));
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map(Secret::new).map_err(|error| Failure::Failed(format!("can't read the password: {error}")))
    };
    let password = ask("New password: ")?;
    if password != ask("The same again: ")? {
        return Err(Failure::Failed("the two passwords differ: nothing was changed".to_owned()));
    }
    Ok(password)
}

/// Whether the person says yes to something that can't be undone. `yes` says so beforehand.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask on: say --yes to go ahead".to_owned()));
    }
    let mut terminal = io::stderr().lock();
    write!(terminal, "{question} [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut answer).map_err(|error| Failure::Failed(format!("can't read the answer: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Failed("nothing was changed".to_owned())) }
}

/// The first line, without its end. Everything else is the password, spaces too.
fn first_line(input: &mut impl BufRead) -> Result<Secret<String>, Failure> {
    let unreadable = |why: &str| Failure::Failed(format!("can't read the password from standard input: {why}"));
    // Room for the longest line at once: growing would leave copies behind in freed memory.
    let mut line = Zeroizing::new(Vec::with_capacity(usize::try_from(LONGEST).unwrap_or(usize::MAX)));
    input.take(LONGEST).read_until(b'\n', &mut line).map_err(|error| unreadable(&error.to_string()))?;
    if line.len() as u64 == LONGEST && line.last() != Some(&b'\n') {
        return Err(unreadable("the first line is too long"));
    }
    let text = line.strip_suffix(b"\n").map_or(line.as_slice(), |line| line.strip_suffix(b"\r").unwrap_or(line));
    if text.is_empty() {
        return Err(unreadable("the first line is empty"));
    }
    let mut text = String::from_utf8(text.to_vec()).map_err(|error| {
        error.into_bytes().zeroize();
        unreadable("it is not UTF-8")
    })?;
    text.shrink_to_fit();
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Option<String> {
        first_line(&mut &*input).ok().map(|secret| secret.expose().clone())
    }

    #[test]
    fn the_first_line_is_the_password() {
        assert_eq!(read(b"correct horse\nsecond\n").as_deref(), Some("correct horse"));
        assert_eq!(read(b"correct horse\r\n").as_deref(), Some("correct horse"));
        assert_eq!(read(b" spaced ").as_deref(), Some(" spaced "));
        assert_eq!(read("pässwörd\n".as_bytes()).as_deref(), Some("pässwörd"));
    }

    #[test]
    fn what_is_no_password_is_refused() {
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\nsecond"), None);
        assert_eq!(read(b"\r\n"), None);
        assert_eq!(read(b"\xff\xfe\n"), None);
        assert_eq!(read(&vec![b'a'; 5000]), None);
        assert_eq!(read(&vec![b'a'; 1025]).map(|text| text.len()), Some(1025));
    }
}
