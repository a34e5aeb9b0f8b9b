//! `sluice plugin keygen` and `sluice plugin sign`: a key of one's own, and signatures over components with it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sluice_plugins::{SigningKey, signature_file};

use crate::cli::{Failure, say};

/// The largest key file and component that are read.
const LARGEST_KEY: u64 = 4096;
const LARGEST_COMPONENT: u64 = 64 << 20;

/// A new key.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice plugin keygen --key release.pem\n\n\
    Writes release.pem, which only you may read, and release.pem.pub, which goes to the gateways: signed_by: [release.pem.pub]. \
    Neither is overwritten.")]
pub(crate) struct Keygen {
    /// The file of the private key; the public one goes beside it, with .pub behind its name
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// A signature.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice plugin sign --key release.pem add_region.wasm\n\n\
    Writes add_region.wasm.sig, in place of an earlier one. A gateway asks for it where the plugin says signed_by.")]
pub(crate) struct Sign {
    /// The private key's file (Ed25519, PKCS#8 in PEM; `openssl genpkey -algorithm ed25519` makes one, too)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The components' files
    #[arg(value_name = "COMPONENT", required = true)]
    components: Vec<PathBuf>,
}

pub(crate) fn keygen(arguments: &Keygen) -> Result<(), Failure> {
    let key = SigningKey::generate().map_err(Failure::run)?;
    let mut public = arguments.key.clone().into_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    create(&arguments.key, 0o600, &key.to_pem().map_err(Failure::run)?)?;
    create(&public, 0o644, &key.public_pem())?;
    say(format_args!("{}: keep it secret\n{}: give it to gateways\n", arguments.key.display(), public.display()))
}

pub(crate) fn sign(arguments: &Sign) -> Result<(), Failure> {
    let text = read(&arguments.key, LARGEST_KEY)?;
    let key = std::str::from_utf8(&text).ok().and_then(|text| SigningKey::from_pem(text).ok());
    let key = key.ok_or_else(|| {
        let file = arguments.key.display();
        Failure::Usage(format!(
            "{file} is no Ed25519 private key: expected PKCS#8 in PEM, as sluice plugin keygen writes it"
        ))
    })?;
    for component in &arguments.components {
        let bytes = read(component, LARGEST_COMPONENT)?;
        // A core module or a text signed by mistake would only be refused later, elsewhere.
        if !matches!(bytes.get(..8), Some([0, b'a', b's', b'm', _, _, 1, 0])) {
            return Err(Failure::Usage(format!("{} is not a WebAssembly component", component.display())));
        }
        let file = signature_file(component);
        fs::write(&file, key.sign(&bytes))
            .map_err(|error| Failure::Run(format!("cannot write {}: {error}", file.display())))?;
        say(format_args!("{}\n", file.display()))?;
    }
    Ok(())
}

fn create(file: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let options = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file);
    options
        .and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()))
        .map_err(|error| Failure::Run(format!("cannot write {}: {error}", file.display())))
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let failed = |why: &dyn std::fmt::Display| Failure::Usage(format!("cannot read {}: {why}", file.display()));
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(|error| failed(&error))?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > most {
        return Err(failed(&format_args!("it has more than {most} bytes")));
    }
    Ok(bytes)
}
