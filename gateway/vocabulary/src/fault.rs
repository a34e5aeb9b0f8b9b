//! Faults of a configuration: each with the place it stands in, what is wrong, and the mend.
//!
//! A unit's `Config::validate` is pure and reports every fault at once: it pushes into a [`Faults`] and goes on. The
//! place is a [`Path`] into the document; the configuration unit, which alone knows the file format, turns it into line
//! and column.

use std::fmt;

/// A step into a configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A key of a mapping.
    Key(Box<str>),
    /// An element of a sequence, counted from 0.
    Index(usize),
}

/// A place in a configuration document, from its root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Path(Vec<Step>);

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value under `key` here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.into()));
        Self(steps)
    }

    /// The element `index` here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for Path {
    /// As a person would write it: `routes[2].match.path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(top)");
        }
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Whether a fault stops the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but something in it is risky; said once at check and at load.
    Warning,
}

/// One thing that is wrong, or risky, in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whether it stops the configuration from being used.
    pub severity: Severity,
    /// Where it stands.
    pub path: Path,
    /// What is wrong: lower case, the value seen and the bound expected. Never a secret.
    pub message: String,
    /// The mend, where there is an obvious one.
    pub help: Option<String>,
}

impl Fault {
    /// A fault that stops the configuration from being used.
    pub fn error(path: &Path, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.clone(), message: message.into(), help: None }
    }

    /// A risk worth saying.
    pub fn warning(path: &Path, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, path: path.clone(), message: message.into(), help: None }
    }

    /// With the mend.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// All faults found so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Adds an error.
    pub fn error(&mut self, path: &Path, message: impl Into<String>) {
        self.push(Fault::error(path, message));
    }

    /// Adds a warning.
    pub fn warning(&mut self, path: &Path, message: impl Into<String>) {
        self.push(Fault::warning(path, message));
    }

    /// Whether any of them stops the configuration from being used.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|fault| fault.severity == Severity::Error)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order found.
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }

    /// All of them, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        self.0.extend(faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_a_person_would_write_it() {
        let path = Path::root().key("routes").index(2).key("match").key("path");
        assert_eq!(path.to_string(), "routes[2].match.path");
        assert_eq!(Path::root().to_string(), "(top)");
    }
}
