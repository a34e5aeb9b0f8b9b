//! The host functions about bodies, their pieces and trailers.

use crate::call::Call;
use crate::contract::fields::HeaderFault;
use crate::contract::{body, streams, trailers};
use crate::edits::Edits;
use crate::failure::Misuse;
use crate::host::{all, text};
use crate::subject::{Body, Subject};

/// Bytes that a plugin may put in the place of a body, or of a piece of one.
pub(crate) const LONGEST_REPLACEMENT: usize = 256 * 1024;

impl streams::Host for Call {}

impl body::Host for Call {
    fn size(&mut self) -> wasmtime::Result<u32> {
        Ok(u32::try_from(self.body()?.present().len()).unwrap_or(u32::MAX))
    }

    fn read(&mut self, offset: u32, length: u32) -> wasmtime::Result<Vec<u8>> {
        let bytes = self.body()?.present();
        let from = (offset as usize).min(bytes.len());
        let to = from.saturating_add(length as usize).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    fn replace(&mut self, bytes: Vec<u8>) -> wasmtime::Result<()> {
        if bytes.len() > LONGEST_REPLACEMENT {
            return Err(Misuse::LongReplacement(bytes.len()).into());
        }
        let body = self.subject.body_mut().ok_or(Misuse::NoBody)?;
        body.replace(bytes);
        Ok(())
    }

    fn is_last(&mut self) -> wasmtime::Result<bool> {
        Ok(self.body()?.is_last)
    }
}

impl trailers::Host for Call {
    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        match &self.subject {
            Subject::Trailers { trailers, edits, .. } => Ok(edits.first(trailers, &name).map(text)),
            _ => Err(Misuse::NoTrailers.into()),
        }
    }

    fn all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        match &self.subject {
            Subject::Trailers { trailers, edits, .. } => Ok(all(trailers, edits)),
            _ => Err(Misuse::NoTrailers.into()),
        }
    }

    fn set(&mut self, name: String, value: String) -> wasmtime::Result<Result<(), HeaderFault>> {
        Ok(self.trailer_edits()?.set(&name, value)?)
    }

    fn remove(&mut self, name: String) -> wasmtime::Result<Result<(), HeaderFault>> {
        Ok(self.trailer_edits()?.remove(&name)?)
    }
}

impl Call {
    fn body(&self) -> Result<&Body, Misuse> {
        self.subject.body().ok_or(Misuse::NoBody)
    }

    fn trailer_edits(&mut self) -> Result<&mut Edits, Misuse> {
        match &mut self.subject {
            Subject::Trailers { edits, .. } => Ok(edits),
            _ => Err(Misuse::NoTrailers),
        }
    }
}
