//! The model card: `README.md` of a repository on the Hub.
//!
//! The front matter is YAML as the Hub reads it, with a model-index: Hugging Face, *Model cards*,
//! <https://huggingface.co/docs/hub/model-cards#model-card-metadata>. Strings are written as JSON, which YAML contains.

use dcff_data::{DatasetInfo, HubFiles};
use dcff_fusion::PUBLISHED;
use dcff_report::table::{Align, Table, count, duration, fixed};
use dcff_run::reduction_percent;
use dcff_train::{Cost, Outcome, Summary};

use super::figures::Figure;
use super::latency::Latency;

/// What a card is made of.
pub(super) struct Card<'a> {
    /// `USER/NAME`.
    pub(super) repo: &'a str,
    pub(super) license: &'a str,
    pub(super) summary: &'a Summary,
    /// What is known about the data set, where it is a known one.
    pub(super) data: Option<&'a DatasetInfo>,
    pub(super) latency: Option<&'a Latency>,
    pub(super) figures: &'a [Figure],
    pub(super) input: [usize; 3],
    pub(super) labels: &'a [String],
}

/// A string as YAML and JSON quote it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// An integer with its thousands set apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Card<'_> {
    /// The file's text; the same card always gives the same text.
    pub(super) fn text(&self) -> String {
        let mut text = self.front_matter();
        for section in [
            self.what(),
            self.figures(),
            self.loading(),
            self.training(),
            self.limits(),
            self.citation(),
        ] {
            text.push('\n');
            text.push_str(&section);
        }
        text
    }

    /// The name on the Hub, without its owner.
    fn name(&self) -> &str {
        self.repo.rsplit('/').next().unwrap_or(self.repo)
    }

    /// The files of the data set on the Hub. A part of a data set has none: under the name of the whole its figures would
    /// stand beside those on all images.
    fn hub(&self) -> Option<&HubFiles> {
        let whole = self.data.filter(|info| info.subset_of.is_none())?;
        whole.hub.as_ref()
    }

    /// How the data set is called on the Hub, where it is there.
    fn hub_data(&self) -> Option<&str> {
        Some(self.hub()?.repo.as_str())
    }

    fn data_name(&self) -> &str {
        &self.summary.config.data.name
    }

    fn front_matter(&self) -> String {
        let s = self.summary;
        let mut y = String::from("---\n");
        let mut line = |text: String| {
            y.push_str(&text);
            y.push('\n');
        };
        line(format!("license: {}", quoted(self.license)));
        line("library_name: dcff".into());
        line("pipeline_tag: image-classification".into());
        line("tags:".into());
        for tag in [
            "dcff",
            "image-classification",
            "pruning",
            "model-compression",
            "pytorch",
            "onnx",
            "safetensors",
        ] {
            line(format!("- {tag}"));
        }
        line(format!("- {}", quoted(&s.config.arch)));
        line("- arxiv:2107.06916".into());
        if let Some(data) = self.hub_data() {
            line("datasets:".into());
            line(format!("- {data}"));
        }
        line("metrics:".into());
        line("- accuracy".into());
        line("model-index:".into());
        line(format!("- name: {}", quoted(self.name())));
        line("  results:".into());
        line("  - task:".into());
        line("      type: image-classification".into());
        line("      name: Image Classification".into());
        line("    dataset:".into());
        line(format!("      name: {}", quoted(self.data_name())));
        line(format!(
            "      type: {}",
            quoted(self.hub_data().unwrap_or(self.data_name()))
        ));
        line(format!("      config: {}", quoted(self.data_config())));
        line("      split: test".into());
        line("    metrics:".into());
        for (outcome, name) in [(s.last, self.last_name()), (s.chosen, self.chosen_name())] {
            line("    - type: accuracy".into());
            line(format!("      name: {}", quoted(&name)));
            line(format!("      value: {}", outcome.test.accuracy));
        }
        for (kind, name, cost) in self.costs() {
            line(format!("    - type: {kind}"));
            let full = grouped(cost.full);
            line(format!(
                "      name: {}",
                quoted(&format!("{name} (full network: {full})"))
            ));
            line(format!("      value: {}", cost.compact));
        }
        line("---".into());
        y
    }

    /// The Hub's configuration of the data set: the folder of its files.
    fn data_config(&self) -> &str {
        let file = self.hub().and_then(|hub| hub.files.first());
        file.and_then(|file| file.path.split_once('/'))
            .map_or("default", |(folder, _)| folder)
    }

    fn last_name(&self) -> String {
        let s = self.summary;
        format!(
            "top-1, last epoch ({}), seed {}",
            s.last.epoch, s.config.seed
        )
    }

    fn chosen_name(&self) -> String {
        let s = self.summary;
        format!(
            "top-1, epoch chosen by {} ({}), seed {}",
            s.chosen_by, s.chosen.epoch, s.config.seed
        )
    }

    fn costs(&self) -> [(&'static str, &'static str, Cost); 3] {
        let s = self.summary;
        [
            ("macs", "multiply-accumulates", s.macs),
            (
                "operations",
                "operations, published convention",
                s.published_ops,
            ),
            ("parameters", "parameters", s.params),
        ]
    }

    fn what(&self) -> String {
        let s = self.summary;
        let [c, h, w] = self.input;
        let mut how = s.method().sentence;
        if s.macs.full != s.macs.compact {
            how.push_str(&format!(
                ": a plain narrow network with {} % fewer multiply-accumulates and {} % fewer parameters than its full form",
                two(reduction_percent(s.macs.full, s.macs.compact)),
                two(reduction_percent(s.params.full, s.params.compact)),
            ));
        }
        if s.constants > 0 {
            how.push_str(&format!(
                "; {} of its parameters stand for what removed filters contributed",
                count(s.constants)
            ));
        }
        how.push('.');
        format!(
            "# {}\n\nA compact {} that tells {} classes of {h}x{w} images with {c} channels apart ({}).\n{how}\n",
            self.name(),
            s.config.arch,
            self.labels.len(),
            self.some_labels(),
        )
    }

    /// The paper of the method, where it has one.
    fn citation(&self) -> String {
        let citation = self.summary.method().citation;
        citation.map_or_else(String::new, |bibtex| {
            format!("## Citation\n\n```bibtex\n{bibtex}```\n")
        })
    }

    fn some_labels(&self) -> String {
        const SHOWN: usize = 10;
        let mut shown: Vec<&str> = self.labels.iter().take(SHOWN).map(String::as_str).collect();
        if self.labels.len() > SHOWN {
            shown.push("…");
        }
        shown.join(", ")
    }

    fn figures(&self) -> String {
        let s = self.summary;
        let mut accuracy = Table::new([
            ("top-1 on the test images", Align::Left),
            ("epoch", Align::Right),
            ("seed", Align::Right),
            ("accuracy", Align::Right),
            ("loss", Align::Right),
        ]);
        let mut row = |name: &str, o: Outcome| {
            accuracy.row([
                name.to_owned(),
                o.epoch.to_string(),
                s.config.seed.to_string(),
                percent(o.test.accuracy),
                format!("{:.4}", o.test.loss),
            ]);
        };
        row("last epoch", s.last);
        row(
            &format!("chosen by {} (these weights)", s.chosen_by),
            s.chosen,
        );
        let mut text = format!("## Figures\n\n{}", accuracy.markdown());
        text.push_str("\nOne run with one seed: other seeds give other figures.\n");
        if s.config.recipe.select_on_test {
            text.push_str("The epoch was chosen on the test images, as in the paper: its accuracy is no estimate for new images.\n");
        }
        if let Some(paper) = PUBLISHED.iter().find(|p| self.uses(p)) {
            text.push_str(&format!(
                "The paper gives {:.2} % for these rates: the best epoch on the test images, after its full recipe.\n",
                paper.top1
            ));
        }

        let mut costs = Table::new([
            ("cost of one image", Align::Left),
            ("full", Align::Right),
            ("this network", Align::Right),
            ("saved", Align::Right),
        ]);
        for (_, name, cost) in self.costs() {
            costs.row([
                name.to_owned(),
                grouped(cost.full),
                grouped(cost.compact),
                format!("{} %", two(reduction_percent(cost.full, cost.compact))),
            ]);
        }
        match self.latency {
            None => costs.row(["latency, ms".into(), "-".into(), "-".into(), "-".into()]),
            Some(latency) => {
                for row in &latency.rows {
                    costs.row([
                        format!("latency in batches of {}, ms", row.batch),
                        format!("{:.3}", row.full_ms),
                        format!("{:.3}", row.compact_ms),
                        format!("{} %", two(100.0 * (1.0 - row.compact_ms / row.full_ms))),
                    ]);
                }
            }
        }
        text.push_str(&format!("\n{}\n", costs.markdown()));
        text.push_str("Multiply-accumulates are those of convolutions and linear layers; the published convention of arXiv 2107.06916 also counts bias, batch norm and pooling.\n");
        text.push_str(&match self.latency {
            None => "Latency was not measured (`dcff publish --measure`).\n".to_owned(),
            Some(l) => format!(
                "Latency: median of {} passes, {} threads, dcff {} on {}.\n",
                l.rounds, l.threads, s.dcff_version, l.device
            ),
        });
        for figure in self.figures {
            text.push_str(&format!(
                "\n![{0}]({1})\n\n{0}.\n",
                figure.caption, figure.file
            ));
        }
        text
    }

    fn uses(&self, setting: &dcff_fusion::PublishedSetting) -> bool {
        let rates = self.summary.method().published;
        let Some(Ok(rates)) = rates.map(|rates| rates.parse::<dcff_fusion::Rates>()) else {
            return false;
        };
        // The figures in print are CIFAR-10's or ImageNet's.
        let known = self.data.is_some_and(|info| info.name == "cifar10");
        known
            && setting.arch == self.summary.config.arch
            && setting
                .parsed_rates()
                .is_ok_and(|published| published == rates)
    }

    fn loading(&self) -> String {
        let repo = self.repo;
        format!(
            r#"## Use

PyTorch, with the packages `torch`, `safetensors` and `huggingface_hub`:

```python
import sys
from huggingface_hub import snapshot_download
folder = snapshot_download("{repo}"); sys.path.insert(0, folder)
from modeling_dcff import CompactNetwork
model = CompactNetwork.from_pretrained(folder)
```

`model(model.preprocess(images))` gives the logits `[N, {classes}]` of images `[N, {c}, H, W]` with values in 0..1; `model.labels` names them.

ONNX, with `onnxruntime`: `model.onnx` takes normalised images `input` `[batch, {c}, {h}, {w}]` and gives `logits`; its metadata tell preprocessing and labels.

[dcff](https://github.com/dcff-rs/dcff), without Python:

```bash
dcff predict hf://{repo} photo.png
```

All forms come from the same weights; loading them runs no pickle.
"#,
            classes = self.labels.len(),
            c = self.input[0],
            h = self.input[1],
            w = self.input[2],
        )
    }

    fn training(&self) -> String {
        let s = self.summary;
        let (data, recipe) = (&s.config.data, &s.config.recipe);
        format!(
            "## Training\n\n```bash\ndcff train --config training/config.toml{own} --out runs/{name}\n```\n\n\
             repeats this run, to the same bits. It took {time} on {device} with {threads} threads{reused}: {epochs} epochs of {images} images of `{data}`, batches of {batch}, SGD from a rate of {rate}.\n\
             The test images have the SHA-256 `{test}`; figures on other files are not comparable.{files}\n\
             `training/` holds the configuration, a row of metrics per epoch, the summary, the report and the figures.\n",
            name = self.name(),
            // Images of one's own lie elsewhere on every machine.
            own = if self.data.is_none() {
                " --data PATH"
            } else {
                ""
            },
            time = duration(s.seconds),
            reused = self.reused(),
            device = s.device,
            threads = s.threads,
            epochs = recipe.epochs,
            images = s.train_images,
            data = data.name,
            batch = recipe.batch_size,
            rate = recipe.learning_rate,
            test = data.test_fingerprint,
            files = self.files(),
        )
    }

    /// What is known of the images beyond their name.
    fn files(&self) -> String {
        let Some(info) = self.data else {
            return String::new();
        };
        if info.subset_of.is_some() {
            return format!(
                "\n`{}` is {}. Its figures may be compared with {}.",
                info.name, info.about, info.comparable
            );
        }
        let own = &self.summary.config.data;
        match (&info.fingerprints, self.hub_data()) {
            (Some(known), _) if known.test == own.test_fingerprint => String::new(),
            (Some(known), _) => format!(
                "\nThey are not those of `{}`, which have the SHA-256 `{}`.",
                info.name, known.test
            ),
            (None, Some(hub)) => format!(
                "\nWhether they hold the very pixels of `{hub}` was not checked: a copy that was encoded anew has another SHA-256, and its figures are not those in print."
            ),
            (None, None) => String::new(),
        }
    }

    /// The time of a stage that was trained by another run, which is not in that of this one.
    fn reused(&self) -> String {
        let stages = self.summary.stages.iter().filter(|stage| stage.reused);
        stages
            .map(|stage| {
                format!(
                    ", without the {} stage, for which an earlier run took {}",
                    stage.stage,
                    duration(stage.seconds)
                )
            })
            .collect()
    }

    fn limits(&self) -> String {
        let [_, h, w] = self.input;
        let mut text = format!(
            "## Limits\n\n\
             - It knows only these {} classes, and answers with one of them whatever it is shown.\n\
             - It was trained on images of {h}x{w} pixels; larger ones are reduced to that first.\n\
             - Nothing was measured on images of another source than the test images.\n",
            self.labels.len()
        );
        if let Some(info) = self.data {
            text.push_str(&format!(
                "- Terms of the training data: {}.\n",
                info.licence
            ));
        }
        text
    }
}

fn two(percent: f64) -> String {
    fixed(percent, 2)
}

#[cfg(test)]
mod tests {
    use dcff_train::{DataConfig, MethodConfig, Recipe, RunConfig, Score};

    use super::*;

    /// The summary of a made-up dense run on `data`.
    fn summary(data: &str) -> Summary {
        let data = DataConfig {
            train_fingerprint: "a".into(),
            test_fingerprint: "b".into(),
            ..DataConfig::named(data, 0.0)
        };
        let recipe = Recipe::quick(2);
        let outcome = Outcome {
            epoch: 2,
            test: Score {
                loss: 1.0,
                accuracy: 0.5,
            },
            validation: None,
        };
        let cost = Cost {
            full: 200,
            compact: 200,
        };
        Summary {
            config: RunConfig::new("resnet20", 1, data, MethodConfig::named("dense"), recipe),
            method: None,
            last: outcome,
            chosen: outcome,
            chosen_by: "last".into(),
            widths: Vec::new(),
            macs: cost,
            published_ops: cost,
            params: cost,
            constants: 0,
            training_macs: 0,
            stages: Vec::new(),
            train_images: 10,
            seconds: 1.0,
            images_per_second: 1.0,
            device: "cpu".into(),
            threads: 1,
            dcff_version: "0.1.0".into(),
            products: Vec::new(),
        }
    }

    fn card(data: &str) -> String {
        let summary = summary(data);
        let card = Card {
            repo: "a/b",
            license: "mit",
            summary: &summary,
            data: dcff_data::find(data).ok(),
            latency: None,
            figures: &[],
            input: [3, 32, 32],
            labels: &[],
        };
        card.text()
    }

    #[test]
    fn a_result_on_a_part_of_a_data_set_is_not_one_on_the_whole() {
        let part = card("cifar10-subset");
        assert!(!part.contains("uoft-cs/cifar10"), "{part}");
        for line in [
            "      name: \"cifar10-subset\"\n      type: \"cifar10-subset\"\n      config: \"default\"\n",
            "`cifar10-subset` is a tenth of CIFAR-10: 5,000 training and 1,000 test images, balanced. Its figures may be compared with other runs on the same fingerprints only; never published accuracies.",
        ] {
            assert!(part.contains(line), "{line} in {part}");
        }
        let whole = card("cifar10");
        for line in [
            "datasets:\n- uoft-cs/cifar10\n",
            "      type: \"uoft-cs/cifar10\"\n      config: \"plain_text\"\n",
            "Whether they hold the very pixels of `uoft-cs/cifar10` was not checked",
        ] {
            assert!(whole.contains(line), "{line} in {whole}");
        }
    }

    #[test]
    fn images_that_are_not_the_known_ones_are_said_to_be_others() {
        let known = dcff_data::find("synthetic").unwrap();
        let test = &known.fingerprints.as_ref().unwrap().test;
        let other = card("synthetic");
        let sentence =
            format!("They are not those of `synthetic`, which have the SHA-256 `{test}`.");
        assert!(other.contains(&sentence), "{other}");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [grouped(7), grouped(1234), grouped(123_456_789)],
            ["7", "1,234", "123,456,789"]
        );
    }

    #[test]
    fn yaml_strings_hold_what_they_quote() {
        assert_eq!(quoted("a: \"b\" # c"), r#""a: \"b\" # c""#);
    }
}
