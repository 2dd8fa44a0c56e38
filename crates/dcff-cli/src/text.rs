//! Text of others, fit to be shown: what a file quotes must not move the cursor of a terminal or fill it.

/// The longest message, in characters.
const LONGEST: usize = 1000;

/// A message as one line, whatever it quotes, without the backtrace that candle may append.
pub(crate) fn one_line(message: &str) -> String {
    let is_frame =
        |line: &str| line.starts_with(' ') && line.trim().starts_with("0: candle_core::");
    let lines = message.lines().take_while(|line| !is_frame(line));
    let lines: Vec<&str> = lines.map(str::trim).collect();
    let words: Vec<String> = lines
        .iter()
        .flat_map(|line| line.split(' '))
        .map(cut)
        .collect();
    let line = printable(&words.join(" "));
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A word of a message without its middle where that is longer than any name or path that a reader takes in.
fn cut(word: &str) -> String {
    const LONGEST: usize = 400;
    const END: usize = 100;
    let length = word.chars().count();
    if length <= LONGEST {
        return word.to_owned();
    }
    let start: String = word.chars().take(LONGEST - END).collect();
    let end: String = word.chars().skip(length - END).collect();
    format!("{start}…({} more)…{end}", length - LONGEST)
}

/// `text` with control characters as `\u{1b}` and the like.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_without_control_characters() {
        assert_eq!(one_line("a:\n  b\x1b[2J \u{e9}"), "a: b\\u{1b}[2J \u{e9}");
        let traced = "no room\n   0: candle_core::error::Error::bt\n   1: main";
        assert_eq!(one_line(traced), "no room");
        let long = one_line(&"x ".repeat(3000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
        // What follows a long value is told.
        let value = format!("--arch {}: expected a name", "x".repeat(5000));
        let end = format!("x…(4601 more)…{}: expected a name", "x".repeat(99));
        assert!(one_line(&value).ends_with(&end), "{}", one_line(&value));
    }
}
