//! Text of others, fit to be shown: what a file quotes must not move the cursor of a terminal or fill it.

/// The longest message, in characters.
const LONGEST: usize = 2000;

/// A message as one line, whatever it quotes, without the backtrace that candle may append.
pub(crate) fn one_line(message: &str) -> String {
    let is_frame =
        |line: &str| line.starts_with(' ') && line.trim().starts_with("0: candle_core::");
    let lines = message.lines().take_while(|line| !is_frame(line));
    let lines: Vec<&str> = lines.map(str::trim).collect();
    let line = printable(&lines.join(" "));
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
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
        let long = one_line(&"x".repeat(3000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
