//! A stranger's path: the README's own commands, as they stand there.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{root, succeed};

/// The section of the README that is carried out.
const SECTION: &str = "## From nothing to PyTorch";

/// A fenced block of code: its language and its text.
type Block<'a> = (&'a str, String);

/// Carries the section out in `folder`, with `dcff` in the path and with `python`. The first block installs what is there already,
/// and is left out.
pub(super) fn follow(dcff: &Path, python: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let readme = root().join("README.md");
    let text = std::fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let blocks = blocks(&text);
    ensure!(
        blocks.len() > 1,
        "README.md: expected blocks of code under '{SECTION}'"
    );
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = dcff.parent().map(Path::to_owned).into_iter();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited)))?;
    for (language, code) in &blocks[1..] {
        let mut command = match *language {
            "bash" => {
                let mut bash = Command::new("bash");
                bash.args(["-e", "-u", "-o", "pipefail"]);
                bash
            }
            "python" => Command::new(python),
            other => {
                anyhow::bail!("README.md: '{SECTION}': expected bash or python, got '{other}'")
            }
        };
        // The folder is compared with what arrives on the Hub: no compiled Python may lie in it.
        command
            .env("PATH", &path)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        succeed(command.arg("-c").arg(code).current_dir(folder))?;
    }
    Ok(())
}

/// The blocks of the section in `readme`.
fn blocks(readme: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    let section = readme.lines().skip_while(|line| *line != SECTION).skip(1);
    for line in section {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                blocks.push((language, String::new()));
            }
            None if inside => {
                if let Some((_, code)) = blocks.last_mut() {
                    code.push_str(line);
                    code.push('\n');
                }
            }
            // Comments of bash look like headings, but stand in blocks.
            None if line.starts_with("## ") => break,
            None => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sections_own_blocks_are_taken() {
        let readme = format!(
            "```bash\nno\n```\n{SECTION}\ntext\n```bash\n## a comment\nyes\n```\n```python\nalso\n```\n## Next\n```bash\nno\n```\n"
        );
        let expected = [
            ("bash", "## a comment\nyes\n".to_owned()),
            ("python", "also\n".to_owned()),
        ];
        assert_eq!(blocks(&readme), expected);
    }
}
