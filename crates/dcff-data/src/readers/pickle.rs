//! A pickle reader that knows just enough for the CIFAR python files: it builds plain values and runs nothing.
//!
//! Opcodes of protocol 2 (and the byte strings of protocol 3): Python, `Lib/pickletools.py`. Three names may be referred to, the ones
//! that make up a numpy array; any other name or opcode is an error. Values live in one arena and refer to each other by position,
//! so the memory is proportional to the file whatever the file says, and there are at most [`MOST`] of them.

use std::collections::HashMap;

/// Position of a value in the arena.
type Id = usize;

/// The names a numpy array is pickled with; `numpy._core` is how numpy 2 spells the first.
const NAMES: [&str; 4] = [
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
];

/// Values on the stack, stored under a key, or in all: a batch of 10,000 images has some 20,000.
const MOST: usize = 1 << 20;

#[derive(Debug)]
enum Value<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    Sequence(Vec<Id>),
    Dictionary(Vec<(Id, Id)>),
    /// The result of calling one of [`NAMES`]: nothing is called, the arguments and the state are kept.
    Object {
        arguments: Id,
        state: Option<Id>,
    },
    /// `None`, `True`, `False` and names.
    Other,
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Parses one pickled value.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        Machine::default().run(bytes)
    }

    /// The entry `key` of the dictionary that the file holds.
    fn entry(&self, key: &str) -> Result<&Value<'a>, String> {
        let Value::Dictionary(entries) = &self.values[self.root] else {
            return Err("expected a pickled dictionary".to_owned());
        };
        entries
            .iter()
            .find(|(k, _)| matches!(self.values[*k], Value::Bytes(b) if b == key.as_bytes()))
            .map(|(_, value)| &self.values[*value])
            .ok_or_else(|| format!("expected a dictionary with `{key}`"))
    }

    /// The list of integers at `key`.
    pub(super) fn integers(&self, key: &str) -> Result<Vec<i64>, String> {
        let unexpected = || format!("expected a list of integers at `{key}`");
        let Value::Sequence(items) = self.entry(key)? else {
            return Err(unexpected());
        };
        items
            .iter()
            .map(|&id| match self.values[id] {
                Value::Integer(n) => Ok(n),
                _ => Err(unexpected()),
            })
            .collect()
    }

    /// Shape and bytes of the C-ordered numpy array of `u8` at `key`.
    pub(super) fn byte_array(&self, key: &str) -> Result<(Vec<i64>, &'a [u8]), String> {
        let unexpected = || format!("expected a numpy array of u8 in C order at `{key}`");
        // numpy's state is (version, shape, dtype, is_fortran_order, bytes).
        let state = match self.entry(key)? {
            Value::Object {
                state: Some(state), ..
            } => self.sequence(*state),
            _ => None,
        };
        let Some(&[_, shape, dtype, fortran, data]) = state else {
            return Err(unexpected());
        };
        let is_u8 = match self.values[dtype] {
            Value::Object { arguments, .. } => self
                .sequence(arguments)
                .and_then(|arguments| arguments.first())
                .is_some_and(|&id| matches!(self.values[id], Value::Bytes(b"u1"))),
            _ => false,
        };
        let c_order = matches!(self.values[fortran], Value::Integer(0));
        let shape: Option<Vec<i64>> = self.sequence(shape).and_then(|items| {
            items
                .iter()
                .map(|&id| match self.values[id] {
                    Value::Integer(n) => Some(n),
                    _ => None,
                })
                .collect()
        });
        match (shape, &self.values[data]) {
            (Some(shape), Value::Bytes(bytes)) if is_u8 && c_order => Ok((shape, bytes)),
            _ => Err(unexpected()),
        }
    }

    fn sequence(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }
}

/// What the stack holds: values, and marks that open a group.
enum Slot {
    Value(Id),
    Mark,
}

#[derive(Default)]
struct Machine<'a> {
    values: Vec<Value<'a>>,
    stack: Vec<Slot>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self, bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let mut rest = bytes;
        loop {
            let at = bytes.len() - rest.len();
            match self.step(&mut rest) {
                Ok(None) => {
                    let most = self.values.len().max(self.stack.len()).max(self.memo.len());
                    if most > MOST {
                        return Err(format!("byte {at}: expected at most {MOST} values"));
                    }
                }
                Ok(Some(root)) => {
                    return Ok(Pickle {
                        values: self.values,
                        root,
                    });
                }
                Err(problem) => return Err(format!("byte {at}: {problem}")),
            }
        }
    }

    /// Carries out one opcode; `Some` at the end of the pickle.
    fn step(&mut self, rest: &mut &'a [u8]) -> Result<Option<Id>, String> {
        match number(rest, 1)? as u8 {
            0x80 => {
                number(rest, 1)?;
            }
            b'.' => return self.pop().map(Some),
            b'(' => self.stack.push(Slot::Mark),
            b'N' => self.push(Value::Other),
            b'K' => self.integer(rest, 1)?,
            b'M' => self.integer(rest, 2)?,
            b'J' => {
                let n = number(rest, 4)? as u32 as i32;
                self.push(Value::Integer(n.into()));
            }
            0x88 => self.push(Value::Integer(1)),
            0x89 => self.push(Value::Integer(0)),
            b'U' | b'C' => self.bytes(rest, 1)?,
            b'T' | b'X' | b'B' => self.bytes(rest, 4)?,
            b']' | b')' => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Dictionary(Vec::new())),
            b't' => {
                let items = self.group()?;
                self.push(Value::Sequence(items));
            }
            count @ 0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0..count - 0x84 {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Sequence(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.group()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.group()?;
                self.insert(&items)?;
            }
            b'q' => self.store(rest, 1)?,
            b'r' => self.store(rest, 4)?,
            b'h' => self.fetch(rest, 1)?,
            b'j' => self.fetch(rest, 4)?,
            b'c' => {
                let name = format!("{} {}", line(rest)?, line(rest)?);
                if !NAMES.contains(&name.as_str()) {
                    return Err(format!("refused to load `{name}`"));
                }
                self.push(Value::Other);
            }
            b'R' => {
                let arguments = self.pop()?;
                self.pop()?;
                self.push(Value::Object {
                    arguments,
                    state: None,
                });
            }
            b'b' => {
                let new = self.pop()?;
                match self.top()? {
                    Value::Object { state, .. } => *state = Some(new),
                    _ => return Err("expected an object to set the state of".to_owned()),
                }
            }
            opcode => return Err(format!("unexpected pickle opcode 0x{opcode:02x}")),
        }
        Ok(None)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(Slot::Value(self.values.len()));
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        match self.stack.pop() {
            Some(Slot::Value(id)) => Ok(id),
            _ => Err("expected a value on the pickle stack".to_owned()),
        }
    }

    fn top_id(&self) -> Result<Id, String> {
        match self.stack.last() {
            Some(Slot::Value(id)) => Ok(*id),
            _ => Err("expected a value on the pickle stack".to_owned()),
        }
    }

    fn top(&mut self) -> Result<&mut Value<'a>, String> {
        let id = self.top_id()?;
        Ok(&mut self.values[id])
    }

    /// The values above the last mark.
    fn group(&mut self) -> Result<Vec<Id>, String> {
        let mut items = Vec::new();
        loop {
            match self.stack.pop() {
                Some(Slot::Value(id)) => items.push(id),
                Some(Slot::Mark) => break,
                None => return Err("expected a mark on the pickle stack".to_owned()),
            }
        }
        items.reverse();
        Ok(items)
    }

    fn append(&mut self, new: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Value::Sequence(items) => {
                items.extend(new);
                Ok(())
            }
            _ => Err("expected a list to append to".to_owned()),
        }
    }

    fn insert(&mut self, new: &[Id]) -> Result<(), String> {
        match self.top()? {
            Value::Dictionary(entries) if new.len().is_multiple_of(2) => {
                entries.extend(new.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err("expected a dictionary and pairs to add".to_owned()),
        }
    }

    fn integer(&mut self, rest: &mut &'a [u8], width: usize) -> Result<(), String> {
        let n = number(rest, width)?;
        self.push(Value::Integer(n as i64));
        Ok(())
    }

    fn bytes(&mut self, rest: &mut &'a [u8], width: usize) -> Result<(), String> {
        let length = number(rest, width)?;
        let bytes = take(rest, length as usize)?;
        self.push(Value::Bytes(bytes));
        Ok(())
    }

    fn store(&mut self, rest: &mut &'a [u8], width: usize) -> Result<(), String> {
        let key = number(rest, width)? as u32;
        let id = self.top_id()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn fetch(&mut self, rest: &mut &'a [u8], width: usize) -> Result<(), String> {
        let key = number(rest, width)? as u32;
        let id = *self.memo.get(&key).ok_or("expected a stored value")?;
        self.stack.push(Slot::Value(id));
        Ok(())
    }
}

/// A little-endian unsigned number of `width` bytes, at most 8.
fn number(rest: &mut &[u8], width: usize) -> Result<u64, String> {
    let bytes = take(rest, width)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    if count > rest.len() {
        return Err(format!(
            "truncated: expected {count} more bytes, got {}",
            rest.len()
        ));
    }
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    Ok(head)
}

fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    let end = rest
        .iter()
        .position(|&b| b == b'\n')
        .ok_or("truncated: expected a line")?;
    let text = take(rest, end + 1)?;
    std::str::from_utf8(&text[..end]).map_err(|_| "expected a name in UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        // Each of these opcodes is one byte or two and leaves something behind.
        for (opcodes, file) in [("N", 4 << 20), ("(", 4 << 20), ("h\0", 12 << 20)] {
            let mut bytes = b"N\x71\0".to_vec();
            bytes.extend(opcodes.bytes().cycle().take(file));
            let error = Pickle::parse(&bytes).unwrap_err();
            assert!(
                error.ends_with("expected at most 1048576 values"),
                "{error}"
            );
        }
    }
}
