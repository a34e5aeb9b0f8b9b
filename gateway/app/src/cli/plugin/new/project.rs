//! What the projects of each language consist of. The texts are those of the repository, so that they cannot fall behind.

/// A language that a project can be made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    Rust,
    #[value(name = "assemblyscript")]
    AssemblyScript,
}

/// A file of a project.
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) text: String,
    pub(super) is_program: bool,
}

/// A text of the repository, by its path there.
macro_rules! repository {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../", $path))
    };
}

const WIT: &[(&str, &str)] = &[
    ("wit/bodies.wit", repository!("wit/bodies.wit")),
    ("wit/capabilities.wit", repository!("wit/capabilities.wit")),
    ("wit/plugin.wit", repository!("wit/plugin.wit")),
];

/// The SDK's sources, for `vendor/sluice-plugin-sdk`.
const SDK: &[(&str, &str)] = &[
    ("vendor/sluice-plugin-sdk/src/action.rs", repository!("plugins/sdk/src/action.rs")),
    ("vendor/sluice-plugin-sdk/src/body.rs", repository!("plugins/sdk/src/body.rs")),
    ("vendor/sluice-plugin-sdk/src/clock.rs", repository!("plugins/sdk/src/clock.rs")),
    ("vendor/sluice-plugin-sdk/src/config.rs", repository!("plugins/sdk/src/config.rs")),
    ("vendor/sluice-plugin-sdk/src/connection.rs", repository!("plugins/sdk/src/connection.rs")),
    ("vendor/sluice-plugin-sdk/src/exchange.rs", repository!("plugins/sdk/src/exchange.rs")),
    ("vendor/sluice-plugin-sdk/src/heap.rs", repository!("plugins/sdk/src/heap.rs")),
    ("vendor/sluice-plugin-sdk/src/identity.rs", repository!("plugins/sdk/src/identity.rs")),
    ("vendor/sluice-plugin-sdk/src/key_value.rs", repository!("plugins/sdk/src/key_value.rs")),
    ("vendor/sluice-plugin-sdk/src/lib.rs", repository!("plugins/sdk/src/lib.rs")),
    ("vendor/sluice-plugin-sdk/src/log.rs", repository!("plugins/sdk/src/log.rs")),
    ("vendor/sluice-plugin-sdk/src/message.rs", repository!("plugins/sdk/src/message.rs")),
    ("vendor/sluice-plugin-sdk/src/metrics.rs", repository!("plugins/sdk/src/metrics.rs")),
    ("vendor/sluice-plugin-sdk/src/outbound.rs", repository!("plugins/sdk/src/outbound.rs")),
    ("vendor/sluice-plugin-sdk/src/phase.rs", repository!("plugins/sdk/src/phase.rs")),
    ("vendor/sluice-plugin-sdk/src/random.rs", repository!("plugins/sdk/src/random.rs")),
    ("vendor/sluice-plugin-sdk/src/routing.rs", repository!("plugins/sdk/src/routing.rs")),
    ("vendor/sluice-plugin-sdk/src/tags.rs", repository!("plugins/sdk/src/tags.rs")),
];

impl Language {
    pub(super) const fn spoken(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::AssemblyScript => "AssemblyScript",
        }
    }

    /// The command that builds it.
    pub(super) const fn build(self) -> &'static str {
        match self {
            Self::Rust => "./build.sh",
            Self::AssemblyScript => "npm ci --ignore-scripts && npm run build",
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::AssemblyScript => "assembly/index.ts",
        }
    }

    /// All of a project's files.
    pub(super) fn files(self, name: &str) -> Vec<File> {
        let filled = |text: &str| {
            text.replace("@name@", name)
                .replace("@crate@", &name.replace('-', "_"))
                .replace("@build@", self.build())
                .replace("@source@", self.source())
                .replace("@sdk@", env!("CARGO_PKG_VERSION"))
        };
        let file = |path, text: &str| File { path, text: filled(text), is_program: false };
        // What is copied is not looked into.
        let copied = |(path, text): &(&'static str, &str)| File { path, text: (*text).to_owned(), is_program: false };
        let mut files = vec![
            file("README.md", repository!("plugins/templates/README.md.in")),
            file("fixtures.yaml", repository!("plugins/templates/fixtures.yaml")),
            file("sluice.yaml", repository!("plugins/templates/sluice.yaml.in")),
        ];
        files.extend(WIT.iter().map(copied));
        match self {
            Self::Rust => {
                files.push(file(".gitignore", "/target\n/plugin.wasm\n"));
                files.push(file("Cargo.toml", repository!("plugins/templates/rust/Cargo.toml.in")));
                let build = file("build.sh", repository!("plugins/templates/rust/build.sh"));
                files.push(File { is_program: true, ..build });
                files.push(file("src/lib.rs", repository!("plugins/templates/rust/src/lib.rs")));
                files.push(file("src/schema.json", repository!("plugins/templates/rust/src/schema.json")));
                files.push(file(
                    "vendor/sluice-plugin-sdk/Cargo.toml",
                    repository!("plugins/templates/rust/sdk.toml.in"),
                ));
                files.extend(SDK.iter().map(copied));
            }
            Self::AssemblyScript => {
                // The example's tools are the template's: where it is, and what it is called, differs.
                let of_example = |text: &str| text.replace("add-region-as", name);
                let build = repository!("plugins/examples/add-region-as/build.mjs")
                    .replace("build/add_region_as.wasm", "plugin.wasm")
                    .replace("../../../wit", "wit");
                files.push(file(".gitignore", "/node_modules\n/plugin.wasm\n"));
                files.push(file("build.mjs", &build));
                files.push(file(
                    "package.json",
                    &of_example(repository!("plugins/templates/assemblyscript/package.json")),
                ));
                files.push(file(
                    "package-lock.json",
                    &of_example(repository!("plugins/examples/add-region-as/package-lock.json")),
                ));
                files.push(file("assembly/index.ts", repository!("plugins/templates/assemblyscript/index.ts")));
                files
                    .push(file("assembly/sluice.ts", repository!("plugins/examples/add-region-as/assembly/sluice.ts")));
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn names(folder: &str, ending: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).collect()
    }

    #[test]
    fn a_project_holds_the_whole_sdk_and_the_whole_contract() {
        let of = |files: &[(&str, &str)]| -> BTreeSet<String> {
            files.iter().map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect()
        };
        assert_eq!(of(SDK), names("plugins/sdk/src", ".rs"));
        assert_eq!(of(WIT), names("wit", ".wit"));
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for language in [Language::Rust, Language::AssemblyScript] {
            for file in language.files("add-tenant") {
                for word in
                    ["@name@", "@crate@", "@build@", "@source@", "@sdk@", "add-region", "add_region", "../../../"]
                {
                    assert!(!file.text.contains(word), "{}: {word}", file.path);
                }
            }
        }
    }
}
