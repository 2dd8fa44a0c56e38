//! Text of others, fit to be shown: what a file quotes must not move the cursor of a terminal or fill it.

/// The longest message, in characters.
const LONGEST: usize = 1000;

/// What went wrong and why, in one line. Candle's own errors are shown without the backtrace that they may carry.
pub(crate) fn complaint(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| {
        let mut candle = cause.downcast_ref::<candle_core::Error>();
        while let Some(candle_core::Error::WithBacktrace { inner, .. }) = candle {
            candle = Some(inner);
        }
        candle.map_or_else(|| cause.to_string(), ToString::to_string)
    });
    one_line(&causes.collect::<Vec<_>>().join(": "))
}

/// A message as one line, whatever it quotes.
pub(crate) fn one_line(message: &str) -> String {
    let words: Vec<String> = message
        .lines()
        .flat_map(|line| line.trim().split(' '))
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
        let traced = candle_core::Error::WithBacktrace {
            inner: Box::new(candle_core::Error::Msg("no room".into())),
            backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
        };
        let error = anyhow::Error::from(traced).context("a.png");
        assert_eq!(complaint(&error), "a.png: no room");
        let long = one_line(&"x ".repeat(3000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
        // What follows a long value is told.
        let value = format!("--arch {}: expected a name", "x".repeat(5000));
        let end = format!("x…(4601 more)…{}: expected a name", "x".repeat(99));
        assert!(one_line(&value).ends_with(&end), "{}", one_line(&value));
    }
}
