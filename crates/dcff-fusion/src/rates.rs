//! Compression rates as one writes them: a number, or the authors' list expressions.
//!
//! ```text
//! rates  = number | list
//! list   = term, { "+", term }
//! term   = factor, { "*", count }
//! factor = "[", number, { ",", number }, "]" | "(", list, ")"
//! ```
//!
//! `+` joins lists and `*` repeats them, as in Python: `[0.5]*2+([0.4]+[0.3]*2)*3`.
//! Blanks may stand between any two tokens.
//! The parser is bounded: 10,000 rates and 32 nested parentheses at most.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CompressionRate, Error, Result};

/// More than any network has layers; keeps `([0.1]*9999)*9999` from filling the memory.
const MAX_RATES: usize = 10_000;

/// The authors' strings nest once.
const MAX_DEPTH: usize = 32;

/// The compression rates of a network.
///
/// Text and value convert both ways: `rates.to_string().parse()` gives the same rates.
/// A configuration may also hold a bare number or a list of numbers; it is written back as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Rates {
    /// One rate for every layer that may be compressed.
    Uniform(CompressionRate),
    /// One rate per slot, in the architecture's order of slots.
    List(Vec<CompressionRate>),
}

impl Rates {
    /// The rates at which `kept` filters of `filters` stay in each slot.
    ///
    /// # Errors
    /// If a slot keeps none, or more than it has.
    pub fn keeping(kept: &[usize], filters: &[usize]) -> Result<Self> {
        let pairs = kept.iter().zip(filters);
        let rates: Result<_> = pairs
            .map(|(&kept, &filters)| CompressionRate::keeping(kept, filters))
            .collect();
        Ok(Self::List(rates?))
    }

    /// The rate of each of `slots` slots, or `None` if a list has another length.
    pub fn for_slots(&self, slots: usize) -> Option<Vec<CompressionRate>> {
        match self {
            Self::Uniform(rate) => Some(vec![*rate; slots]),
            Self::List(rates) if rates.len() == slots => Some(rates.clone()),
            Self::List(_) => None,
        }
    }
}

impl FromStr for Rates {
    type Err = Error;

    /// # Errors
    /// If the text does not follow the grammar, a rate is not in `[0, 1)`, or the list is empty or too long; the
    /// message names the column.
    fn from_str(text: &str) -> Result<Self> {
        let mut parser = Parser {
            text: text.chars().collect(),
            at: 0,
            depth: 0,
        };
        parser.rates()
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(rate) => rate.fmt(f),
            Self::List(rates) => {
                for (i, run) in rates.chunk_by(|a, b| a == b).enumerate() {
                    if i > 0 {
                        f.write_str("+")?;
                    }
                    write!(f, "[{}]", run[0])?;
                    if run.len() > 1 {
                        write!(f, "*{}", run.len())?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What a configuration file may say.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Numbers(Vec<f64>),
    Text(String),
}

impl TryFrom<Written> for Rates {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Number(rate) => Ok(Self::Uniform(CompressionRate::new(rate)?)),
            Written::Numbers(rates) if rates.is_empty() || rates.len() > MAX_RATES => {
                Err(Error::Rates {
                    column: 1,
                    message: format!("expected 1 to {MAX_RATES} rates, got {}", rates.len()),
                })
            }
            Written::Numbers(rates) => {
                let rates: Result<_> = rates.into_iter().map(CompressionRate::new).collect();
                Ok(Self::List(rates?))
            }
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Rates> for String {
    fn from(rates: Rates) -> Self {
        rates.to_string()
    }
}

/// Recursive descent; `at` is the index of the next character.
struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn rates(&mut self) -> Result<Rates> {
        let rates = match self.peek() {
            Some('[' | '(') => Rates::List(self.list()?),
            _ => Rates::Uniform(self.rate("a rate, '[' or '('")?),
        };
        if self.peek().is_some() {
            let operators = matches!(rates, Rates::List(_));
            return Err(self.unexpected(if operators {
                "'+', '*' or the end"
            } else {
                "the end"
            }));
        }
        match &rates {
            Rates::List(rates) if rates.is_empty() => Err(self.error(0, "the list is empty")),
            _ => Ok(rates),
        }
    }

    fn list(&mut self) -> Result<Vec<CompressionRate>> {
        let mut rates = self.term()?;
        while self.eat('+') {
            let start = self.at;
            let more = self.term()?;
            self.fits(start, Some(rates.len() + more.len()))?;
            rates.extend(more);
        }
        Ok(rates)
    }

    fn term(&mut self) -> Result<Vec<CompressionRate>> {
        let mut rates = self.factor()?;
        while self.eat('*') {
            self.skip_blanks();
            let start = self.at;
            let count = self.count()?;
            self.fits(start, rates.len().checked_mul(count))?;
            rates = rates.repeat(count);
        }
        Ok(rates)
    }

    fn factor(&mut self) -> Result<Vec<CompressionRate>> {
        if self.eat('[') {
            let mut rates = vec![self.rate("a rate")?];
            while self.eat(',') {
                let start = self.at;
                rates.push(self.rate("a rate")?);
                self.fits(start, Some(rates.len()))?;
            }
            self.expect(']', "',' or ']'")?;
            return Ok(rates);
        }
        let open = self.at;
        if self.eat('(') {
            if self.depth == MAX_DEPTH {
                return Err(self.error(
                    open,
                    &format!("parentheses nest more than {MAX_DEPTH} deep"),
                ));
            }
            self.depth += 1;
            let rates = self.list()?;
            self.depth -= 1;
            self.expect(')', "'+', '*' or ')'")?;
            return Ok(rates);
        }
        Err(self.unexpected("'[' or '('"))
    }

    fn rate(&mut self, expected: &str) -> Result<CompressionRate> {
        self.skip_blanks();
        let start = self.at;
        let number = self.take_while(|c| c.is_ascii_digit() || c == '.');
        let mut number: String = number;
        // An exponent belongs to the number only with its digits.
        if !number.is_empty() && matches!(self.text.get(self.at), Some('e' | 'E')) {
            number.push('e');
            self.at += 1;
            if let Some(sign @ ('+' | '-')) = self.text.get(self.at) {
                number.push(*sign);
                self.at += 1;
            }
            number += &self.take_while(|c| c.is_ascii_digit());
        }
        if number.is_empty() {
            return Err(self.unexpected(expected));
        }
        let value: f64 = number
            .parse()
            .map_err(|_| self.error(start, &format!("'{number}' is not a number")))?;
        CompressionRate::new(value).map_err(|error| self.error(start, &error.to_string()))
    }

    fn count(&mut self) -> Result<usize> {
        let start = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.unexpected("a whole number"));
        }
        // Only a number too large for the machine fails here, and it is too large for the list as well.
        digits.parse().map_err(|_| self.too_long(start))
    }

    fn fits(&self, start: usize, length: Option<usize>) -> Result<()> {
        match length {
            Some(length) if length <= MAX_RATES => Ok(()),
            _ => Err(self.too_long(start)),
        }
    }

    fn too_long(&self, start: usize) -> Error {
        self.error(start, &format!("the list grows beyond {MAX_RATES} rates"))
    }

    fn skip_blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_blanks();
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: char, expected: &str) -> Result<()> {
        if self.eat(wanted) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let rest = &self.text[self.at..];
        let taken: String = rest.iter().copied().take_while(|&c| belongs(c)).collect();
        self.at += taken.chars().count();
        taken
    }

    fn unexpected(&mut self, expected: &str) -> Error {
        let found = match self.peek() {
            Some(c) => format!("'{}'", c.escape_debug()),
            None => "the end".to_owned(),
        };
        self.error(self.at, &format!("expected {expected}, found {found}"))
    }

    fn error(&self, at: usize, message: &str) -> Error {
        Error::Rates {
            column: at + 1,
            message: message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Vec<f64> {
        match text.parse() {
            Ok(Rates::List(rates)) => rates.into_iter().map(CompressionRate::get).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refused(text: &str) -> String {
        text.parse::<Rates>().unwrap_err().to_string()
    }

    #[test]
    fn reads_lists_as_python_does() {
        assert_eq!(list("[0.5]"), [0.5]);
        assert_eq!(list("[0.5,0.4, .3]"), [0.5, 0.4, 0.3]);
        assert_eq!(list("[0.5]*2+[0.4]"), [0.5, 0.5, 0.4]);
        assert_eq!(list("([0.1]+[0.2]*2)*2"), [0.1, 0.2, 0.2, 0.1, 0.2, 0.2]);
        assert_eq!(
            list(" [ 1e-1 ] * 2 * 2\t+ ( ( [0] ) ) "),
            [0.1, 0.1, 0.1, 0.1, 0.0]
        );
        assert_eq!(list("[0.5]*0+[0.25]"), [0.25]);
    }

    #[test]
    fn reads_one_number_as_uniform() {
        let rates: Rates = " 0.5 ".parse().unwrap();
        assert_eq!(rates, Rates::Uniform(CompressionRate::new(0.5).unwrap()));
        assert_eq!(rates.for_slots(3).unwrap().len(), 3);
        assert!("[0.5]*2".parse::<Rates>().unwrap().for_slots(3).is_none());
    }

    #[test]
    fn errors_point_at_the_column() {
        assert_eq!(
            refused(""),
            "rates, column 1: expected a rate, '[' or '(', found the end"
        );
        assert_eq!(
            refused("[0.5"),
            "rates, column 5: expected ',' or ']', found the end"
        );
        assert_eq!(
            refused("[0.5]*x"),
            "rates, column 7: expected a whole number, found 'x'"
        );
        assert_eq!(
            refused("[0.5]+0.4"),
            "rates, column 7: expected '[' or '(', found '0'"
        );
        assert_eq!(
            refused("[0.5]]"),
            "rates, column 6: expected '+', '*' or the end, found ']'"
        );
        assert_eq!(
            refused("([0.5]*2"),
            "rates, column 9: expected '+', '*' or ')', found the end"
        );
        assert_eq!(
            refused("0.5*2"),
            "rates, column 4: expected the end, found '*'"
        );
        assert_eq!(
            refused("[-0.5]"),
            "rates, column 2: expected a rate, found '-'"
        );
        assert_eq!(
            refused("[0.5.1]"),
            "rates, column 2: '0.5.1' is not a number"
        );
        assert_eq!(
            refused("[0.5]*2+[1.0]"),
            "rates, column 10: expected a compression rate of at least 0 and below 1, got 1"
        );
        assert_eq!(refused("[0.5]*0"), "rates, column 1: the list is empty");
    }

    #[test]
    fn expansion_and_nesting_are_bounded() {
        assert_eq!(list("[0.5]*10000").len(), 10_000);
        assert_eq!(
            refused("[0.5]*10001"),
            "rates, column 7: the list grows beyond 10000 rates"
        );
        assert_eq!(
            refused("([0.5]*9999)*9999"),
            "rates, column 14: the list grows beyond 10000 rates"
        );
        assert_eq!(
            refused("[0.5]*9999+[0.5]*2"),
            "rates, column 12: the list grows beyond 10000 rates"
        );
        assert_eq!(
            refused("[0.5]*99999999999999999999999"),
            "rates, column 7: the list grows beyond 10000 rates"
        );
        let nested = |depth| format!("{}[0.5]{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(list(&nested(32)), [0.5]);
        assert_eq!(
            refused(&nested(33)),
            "rates, column 33: parentheses nest more than 32 deep"
        );
        assert!(refused(&"(".repeat(100_000)).contains("nest more than 32 deep"));
    }

    #[test]
    fn prints_runs_and_reads_them_back() {
        let text = "[0.5]*2+[0.4]+[0.85]*6";
        let rates: Rates = text.parse().unwrap();
        assert_eq!(rates.to_string(), text);
        let json = serde_json::to_string(&rates).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Rates>(&json).unwrap(), rates);
    }

    #[test]
    fn a_configuration_may_hold_numbers() {
        let from_json = |json: &str| serde_json::from_str::<Rates>(json);
        assert_eq!(from_json("0.5").unwrap().to_string(), "0.5");
        assert_eq!(
            from_json("[0.5, 0.5, 0]").unwrap().to_string(),
            "[0.5]*2+[0]"
        );
        assert!(from_json("[]").is_err());
        assert!(
            from_json("[0.5, 1.0]")
                .unwrap_err()
                .to_string()
                .contains("below 1, got 1")
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = text.parse::<Rates>();
        }

        #[test]
        fn never_panics_on_its_own_alphabet(text in "[\\[\\]()+*,.0-9e \\-]{0,60}") {
            if let Ok(rates) = text.parse::<Rates>() {
                prop_assert_eq!(rates.to_string().parse::<Rates>().unwrap(), rates);
            }
        }

        #[test]
        fn round_trips(rates in prop::collection::vec(0.0..1.0f64, 1..40)) {
            let rates = Rates::List(rates.into_iter().map(|rate| CompressionRate::new(rate).unwrap()).collect());
            prop_assert_eq!(rates.to_string().parse::<Rates>().unwrap(), rates);
        }
    }
}
