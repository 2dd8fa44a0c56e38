//! Circles between the files of a crate: files of which each needs the other can be read, tested and moved only together.
//!
//! Files are read as text. An arrow from one file to another is a path that begins with `crate`, `super`, `self` or a module's
//! name, in a `use` or in the code. It leads to the file that defines what is named: through the re-exports on the way, and past
//! a `mod.rs` that only hands names on. What tests need does not count, and what methods of a type are defined where is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files of one crate by their place below `src`, with `/`, and their text.
type Sources = BTreeMap<String, String>;

/// Every circle of files in `sources`, each as `a.rs (needs X) -> b.rs (needs Y) -> a.rs`.
pub(crate) fn circles(sources: &Sources) -> Vec<String> {
    let house = House::new(sources);
    let arrows = house.arrows();
    let mut found = Vec::new();
    for members in components(&arrows) {
        let Some(first) = members.first().filter(|_| members.len() > 1) else {
            continue;
        };
        let (mut way, mut at) = (String::new(), *first);
        for next in way_round(&arrows, &members, first) {
            let names: Vec<&str> = arrows[at][next].iter().map(String::as_str).collect();
            way.push_str(&format!("{at} (needs {}) -> ", names.join(", ")));
            at = next;
        }
        way.push_str(first);
        let others = members.len() - way.matches("->").count();
        if others > 0 {
            way.push_str(&format!(", and {others} more files in it"));
        }
        found.push(way);
    }
    found
}

/// The sources of the crate in `folder`.
pub(crate) fn read(folder: &Path, files: &[PathBuf]) -> Sources {
    let src = folder.join("src");
    let own = files.iter().filter_map(|path| {
        let place = path.strip_prefix(&src).ok()?.to_str()?.replace('\\', "/");
        // Programs in `bin` are crates of their own.
        let counts = place.ends_with(".rs") && !place.starts_with("bin/");
        counts.then(|| Some((place, std::fs::read_to_string(path).ok()?)))?
    });
    own.collect()
}

/// From a file to those it needs, with the names it needs.
type Arrows<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<String>>>;

/// A module of the crate, which is a file.
struct Room<'a> {
    place: &'a str,
    /// Code without comments, texts and tests.
    code: String,
    uses: Vec<Use>,
    /// Names of its inline modules, which paths to its items may pass.
    inline: BTreeSet<String>,
}

/// A name that a `use` brings.
struct Use {
    /// As it is called here; `*` for everything.
    name: String,
    path: Vec<String>,
    /// Whether others may take it from here.
    handed_on: bool,
}

struct House<'a> {
    rooms: BTreeMap<Vec<String>, Room<'a>>,
}

impl<'a> House<'a> {
    fn new(sources: &'a Sources) -> Self {
        let mut rooms = BTreeMap::new();
        let mut tests = Vec::new();
        for (place, text) in sources {
            let (code, modules) = without_tests(&without_reach(&plain(text)));
            let code = flat(code);
            let module = module_of(place);
            tests.extend(
                modules
                    .into_iter()
                    .map(|name| [&module[..], &[name]].concat()),
            );
            let inline = inline_modules(&code);
            let uses = uses(&code);
            rooms.insert(
                module,
                Room {
                    place: place.as_str(),
                    code: without_uses(&code),
                    uses,
                    inline: inline.into_iter().map(|(name, ..)| name).collect(),
                },
            );
        }
        rooms.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self { rooms }
    }

    fn arrows(&self) -> Arrows<'a> {
        let mut arrows = Arrows::new();
        for (module, room) in &self.rooms {
            let from = arrows.entry(room.place).or_default();
            for (path, name) in self.paths(module, room) {
                if let Some(to) = self.definer(&path, 0).filter(|to| *to != room.place) {
                    from.entry(to).or_default().insert(name);
                }
            }
        }
        arrows
    }

    /// What `room` names of this crate: paths from its root, and what they are called.
    fn paths(&self, module: &[String], room: &Room<'a>) -> Vec<(Vec<String>, String)> {
        let mut found = Vec::new();
        let words = words(&room.code);
        for item in &room.uses {
            let Some(path) = self.absolute(module, &item.path) else {
                continue;
            };
            let named: Vec<usize> = (0..words.len())
                .filter(|&i| words[i] == item.name && (i == 0 || words[i - 1] != "::"))
                .collect();
            if item.handed_on && named.is_empty() {
                continue;
            }
            // A module is a way to its items.
            if self.rooms.contains_key(&path) && item.name != "*" {
                for i in named {
                    if let [_, colons, next, ..] = &words[i..]
                        && *colons == "::"
                    {
                        found.push((
                            [&path[..], &[(*next).to_owned()]].concat(),
                            (*next).to_owned(),
                        ));
                    }
                }
                continue;
            }
            found.push((path, item.name.clone()));
        }
        // Paths that are written out in the code.
        let mut i = 0;
        while i < words.len() {
            let start = i;
            let mut path = vec![words[i].to_owned()];
            while let [_, colons, next, ..] = &words[i..]
                && *colons == "::"
                && next.starts_with(|c: char| c.is_alphabetic() || c == '_')
            {
                path.push((*next).to_owned());
                i += 2;
            }
            i += 1;
            if path.len() > 1
                && (start == 0 || words[start - 1] != "::")
                && let Some(absolute) = self.absolute(module, &path)
            {
                let name = path.last().cloned().unwrap_or_default();
                found.push((absolute, name));
            }
        }
        found
    }

    /// `path` as it is written in `module`, from the crate's root; `None` for another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match path.first().map(String::as_str)? {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [&base[..], &[first.to_owned()]].concat();
                if !self.rooms.contains_key(&child) {
                    return None;
                }
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The file that defines what `path` names.
    fn definer(&self, path: &[String], depth: usize) -> Option<&'a str> {
        let known = (0..=path.len()).rev();
        let deepest = known
            .map(|n| &path[..n])
            .find(|p| self.rooms.contains_key(*p))?;
        let room = &self.rooms[deepest];
        let mut rest = &path[deepest.len()..];
        while rest.first().is_some_and(|part| room.inline.contains(part)) {
            rest = &rest[1..];
        }
        let Some(name) = rest.first().filter(|_| depth < 8) else {
            return Some(room.place);
        };
        for item in room.uses.iter().filter(|item| item.name == *name) {
            if let Some(path) = self.absolute(deepest, &item.path) {
                return self.definer(&[&path[..], &rest[1..]].concat(), depth + 1);
            }
        }
        for item in room
            .uses
            .iter()
            .filter(|item| item.name == "*" && item.handed_on)
        {
            if let Some(path) = self.absolute(deepest, &item.path)
                && let Some(other) = self.rooms.get(&path)
                && defines(&other.code, name)
            {
                return Some(other.place);
            }
        }
        Some(room.place)
    }
}

/// `a/b.rs` and `a/b/mod.rs` are the module `a::b`, `lib.rs` and `main.rs` the root.
fn module_of(place: &str) -> Vec<String> {
    let stem = place.trim_end_matches(".rs");
    let mut parts: Vec<String> = stem.split('/').map(str::to_owned).collect();
    let last = parts.last().map(String::as_str);
    if last == Some("mod") || parts.len() == 1 && matches!(last, Some("lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The text without comments and with texts emptied.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            out.push_str("\"\"");
            let end = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..]
                .find(&end)
                .map_or(rest.len(), |at| open + at + end.len())
        } else if c == '"' {
            out.push_str("\"\"");
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if c == '\'' {
            match character(rest) {
                Some(len) => len,
                None => {
                    out.push(c);
                    1
                }
            }
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}

/// The number of hashes of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// The length of a character literal that begins here; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = &text[1..];
    if let Some(escape) = inner.strip_prefix('\\') {
        // Past what is escaped, which may be a quote.
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|end| 2 + first + end + 1);
    }
    let first = inner.chars().next()?.len_utf8();
    inner[first..].starts_with('\'').then_some(first + 2)
}

/// Code without what stands under `#[cfg(test)]`, and the modules among that which are files.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut modules) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let end = match (rest.find(';'), rest.find('{')) {
            (Some(semicolon), brace) if brace.is_none_or(|brace| semicolon < brace) => {
                let item = words(&rest[..semicolon]);
                if let [.., "mod", name] = item[..] {
                    modules.push(name.to_owned());
                }
                semicolon + 1
            }
            // `use a::{b, c};` ends after its braces.
            (_, Some(brace)) => {
                let end = closing(rest, brace);
                end + usize::from(rest[end..].starts_with(';'))
            }
            _ => rest.len(),
        };
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, modules)
}

/// Where the brace that opens at `open` is closed: the position behind it.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + i + 1;
        }
    }
    code.len()
}

/// Inline modules: name, start and end.
fn inline_modules(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("mod ") {
        let word = at == 0 || !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + 4..];
        let name = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                .len();
        let after = rest[name..].trim_start();
        if word && name > 0 && after.starts_with('{') {
            let open = code.len() - after.len();
            found.push((rest[..name].to_owned(), at, closing(code, open)));
        }
    }
    found
}

/// The code with paths inside inline modules as they would stand outside: each climbs one `super` less.
fn flat(mut code: String) -> String {
    const TWO: &str = "\u{1}";
    for i in 0..inline_modules(&code).len() {
        // The last first, and what is inside before what is around it, so that places stay good.
        let mut all = inline_modules(&code);
        all.reverse();
        let (_, start, end) = all[i];
        let inside = code[start..end]
            .replace("super::super::", TWO)
            .replace("super::", "self::")
            .replace(TWO, "super::");
        code.replace_range(start..end, &inside);
    }
    code
}

/// The code without the reach of what is public, as in `pub(in super::super)`; `pub` stays.
fn without_reach(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("pub(") {
        let reach = &rest[at + 4..];
        out.push_str(&rest[..at + 3]);
        let end = reach.find(')').unwrap_or(0);
        // A field of a tuple: `pub (A, B)` would be written with a space.
        let kept = ["crate", "super", "self", "in "]
            .iter()
            .any(|word| reach.starts_with(word));
        rest = if kept {
            &reach[end + 1..]
        } else {
            &rest[at + 3..]
        };
    }
    out.push_str(rest);
    out
}

/// The `use` items of the code.
fn uses(code: &str) -> Vec<Use> {
    let mut found = Vec::new();
    for (start, end) in use_items(code) {
        let handed_on = code[..start].trim_end().ends_with("pub");
        let mut names = Vec::new();
        expand(code[start + 3..end].trim(), &[], &mut names);
        let named = names.into_iter().filter(|(_, path)| !path.is_empty());
        found.extend(named.map(|(name, path)| Use {
            name,
            path,
            handed_on,
        }));
    }
    found
}

/// Where `use` items begin and where their `;` is.
fn use_items(code: &str) -> Vec<(usize, usize)> {
    let starts = code.match_indices("use ").filter(|(at, _)| {
        let before = code[..*at].trim_end_matches([' ', '\t']);
        before.is_empty() || before.ends_with(['\n', '}', ';', '{', ']']) || before.ends_with("pub")
    });
    starts
        .filter_map(|(at, _)| Some((at, at + code[at..].find(';')?)))
        .collect()
}

fn without_uses(code: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (start, end) in use_items(code) {
        if start >= at {
            out.push_str(&code[at..start]);
            at = end + 1;
        }
    }
    out.push_str(&code[at..]);
    out
}

/// The names in a tree of `use`, each with its whole path.
fn expand(tree: &str, before: &[String], into: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = before.to_vec();
        path.extend(segments(tree[..open].trim_end_matches(':')));
        let inner = &tree[open + 1..closing(tree, open) - 1];
        let (mut depth, mut start) = (0, 0);
        for (i, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&inner[start..i], &path, into);
                    start = i + 1;
                }
                _ => {}
            }
        }
        expand(&inner[start..], &path, into);
        return;
    }
    let (path, name) = match tree.split_once(" as ") {
        Some((path, name)) => (path, Some(name.trim().to_owned())),
        None => (tree, None),
    };
    let mut whole = before.to_vec();
    whole.extend(segments(path));
    if whole.len() > 1 && whole.last().is_some_and(|last| last == "self") {
        whole.pop();
    }
    let Some(last) = whole.last().cloned().filter(|_| !tree.is_empty()) else {
        return;
    };
    if last == "*" {
        whole.pop();
    }
    into.push((name.unwrap_or(last), whole));
}

fn segments(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
}

/// Identifiers and `::`, in order; other signs stand for themselves.
fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let len = match c {
            ':' if rest.starts_with("::") => 2,
            c if c.is_alphanumeric() || c == '_' => rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        words.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    words
}

/// Whether the code defines an item `name`.
fn defines(code: &str, name: &str) -> bool {
    const KINDS: [&str; 9] = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "mod", "union",
    ];
    let words = words(code);
    words
        .windows(2)
        .any(|pair| KINDS.contains(&pair[0]) && pair[1] == name)
}

/// Files that reach each other, in the order of their names; a file alone is one, too.
fn components<'a>(arrows: &Arrows<'a>) -> Vec<Vec<&'a str>> {
    let mut left: BTreeSet<&str> = arrows.keys().copied().collect();
    let reach: BTreeMap<&str, BTreeSet<&str>> = arrows
        .keys()
        .map(|&file| (file, reached(arrows, file)))
        .collect();
    let mut found = Vec::new();
    while let Some(first) = left.pop_first() {
        let both = |other: &&str| reach[first].contains(other) && reach[other].contains(first);
        let mut members = vec![first];
        members.extend(left.iter().copied().filter(both));
        left.retain(|file| !members.contains(file));
        found.push(members);
    }
    found
}

fn reached<'a>(arrows: &Arrows<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = arrows
        .get(from)
        .into_iter()
        .flat_map(|to| to.keys().copied())
        .collect();
    while let Some(file) = next.pop() {
        if seen.insert(file) {
            next.extend(
                arrows
                    .get(file)
                    .into_iter()
                    .flat_map(|to| to.keys().copied()),
            );
        }
    }
    seen
}

/// The shortest way from `first` back to it among `members`: the files after it, and it.
fn way_round<'a>(arrows: &Arrows<'a>, members: &[&'a str], first: &'a str) -> Vec<&'a str> {
    let mut ways: Vec<Vec<&str>> = vec![vec![first]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way[way.len() - 1];
            for &next in arrows[last].keys().filter(|next| members.contains(next)) {
                let further = [&way[..], &[next]].concat();
                if next == first {
                    return further[1..].to_vec();
                }
                if seen.insert(next) {
                    longer.push(further);
                }
            }
        }
        ways = longer;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources = files
            .iter()
            .map(|(place, text)| ((*place).to_owned(), (*text).to_owned()))
            .collect();
        circles(&sources)
    }

    #[test]
    fn names_the_files_of_a_circle_and_what_ties_them() {
        let a = ("a.rs", "use crate::b::B;\npub struct A(B);");
        let b = ("b.rs", "pub struct B;\nfn f() -> super::a::A { todo!() }");
        assert_eq!(
            found(&[("lib.rs", "mod a;\nmod b;"), a, b]),
            ["a.rs (needs B) -> b.rs (needs A) -> a.rs"]
        );
        // Three in a row, and one that only looks on.
        let c = ("c.rs", "use crate::{a::A, d};");
        let b = ("b.rs", "use super::c;\nfn f() { c::go() }");
        let d = ("d.rs", "");
        assert_eq!(
            found(&[("lib.rs", "mod a; mod b; mod c; mod d;"), a, b, c, d]),
            ["a.rs (needs B) -> b.rs (needs go) -> c.rs (needs A) -> a.rs"]
        );
    }

    #[test]
    fn a_parent_that_hands_names_on_is_no_link() {
        let parent = (
            "m/mod.rs",
            "mod a;\nmod b;\npub(crate) use a::A;\npub use b::{B, C as D};",
        );
        let a = ("m/a.rs", "use super::D;\npub(crate) struct A(D);");
        let b = ("m/b.rs", "pub struct B;\npub struct C;");
        assert!(found(&[("lib.rs", "mod m;"), parent, a, b]).is_empty());
        // It counts for the file that defines it, however it was reached.
        let b = ("m/b.rs", "pub struct B;\npub struct C(crate::m::A);");
        assert_eq!(
            found(&[("lib.rs", "mod m;"), parent, a, b]),
            ["m/a.rs (needs D) -> m/b.rs (needs A) -> m/a.rs"]
        );
        // A parent that uses what it hands on, and is used.
        let parent = (
            "m/mod.rs",
            "mod a;\npub use a::A;\npub struct P;\nfn f(a: A) {}",
        );
        let a = ("m/a.rs", "use super::P;\npub struct A(P);");
        assert_eq!(
            found(&[("lib.rs", "mod m;"), parent, a]),
            ["m/a.rs (needs P) -> m/mod.rs (needs A) -> m/a.rs"]
        );
        // By a star.
        let parent = ("m/mod.rs", "mod a;\nmod b;\npub use a::*;");
        let a = ("m/a.rs", "use super::b::B;\npub struct A(B);");
        let b = ("m/b.rs", "pub struct B(super::A);");
        assert_eq!(found(&[("lib.rs", "mod m;"), parent, a, b]).len(), 1);
    }

    #[test]
    fn tests_comments_and_texts_tie_nothing() {
        let a = (
            "a.rs",
            "use crate::b::B;\npub struct A(B);\n#[cfg(test)]\nmod tests { use crate::c::C; }",
        );
        let b = (
            "b.rs",
            "//! See [`crate::a::A`].\npub struct B;\n/* crate::a::A */\nconst T: &str = \"crate::a::A \\\" crate::a::A\";\nconst Q: char = '\"';\n#[cfg(test)]\nuse crate::a::A;\n#[cfg(test)]\nmod tests { use super::*; use crate::a::A; fn f() { let x = '{'; } }\n",
        );
        let c = ("c.rs", "use crate::a::A;\npub struct C(A);");
        assert!(found(&[("lib.rs", "mod a; mod b;\n#[cfg(test)]\nmod c;"), a, b, c]).is_empty());
        // What follows the tests counts again.
        let b = (
            "b.rs",
            "#[cfg(test)]\nmod tests { fn f() {} }\npub struct B(crate::a::A);",
        );
        assert_eq!(found(&[("lib.rs", "mod a; mod b;"), a, b]).len(), 1);
    }

    #[test]
    fn an_inline_module_is_part_of_its_file() {
        let a = (
            "a.rs",
            "use crate::b::B;\nmod inner { use super::*; pub(crate) struct X; }",
        );
        let b = (
            "b.rs",
            "pub struct B;\nmod deep { mod deeper { pub(in super::super) fn f() -> super::super::B {} } }",
        );
        assert!(found(&[("lib.rs", "mod a; mod b;"), a, b]).is_empty());
        let b = ("b.rs", "pub struct B(crate::a::inner::X);");
        assert_eq!(
            found(&[("lib.rs", "mod a; mod b;"), a, b]),
            ["a.rs (needs B) -> b.rs (needs X) -> a.rs"]
        );
    }
}
