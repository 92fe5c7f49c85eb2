//! Ciphers whose keys are in the configuration, in kube-apiserver's forms.

use aes_gcm::{
    Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{Aead, Payload, consts::U12},
    aes::{Aes128, Aes192, Aes256},
};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, StreamCipher, block_padding::Pkcs7};
use poly1305::Poly1305;
use ring::rand::{SecureRandom, SystemRandom};
use salsa20::XSalsa20;

/// A value cannot be written, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no randomness, or the key is not one.
    #[error("it cannot be encrypted")]
    Seal,
    /// It ends before it should.
    #[error("its encrypted value is too short")]
    Short,
    /// It is not what was written with this key.
    #[error("it cannot be decrypted: another key, or it was changed")]
    Open,
}

/// As many random bytes.
///
/// # Errors
/// If the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| Error::Seal)?;
    Ok(out)
}

/// AES-GCM: a nonce of 12 bytes, the text, a tag; about the object's key in the store.
pub enum Gcm {
    /// By a key of 16 bytes.
    Aes128(Box<Aes128Gcm>),
    /// By a key of 24 bytes.
    Aes192(Box<AesGcm<Aes192, U12>>),
    /// By a key of 32 bytes.
    Aes256(Box<Aes256Gcm>),
}

impl Gcm {
    /// With a key of 16, 24 or 32 bytes.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Aes128(Box::new(KeyInit::new_from_slice(key).ok()?)),
            24 => Self::Aes192(Box::new(KeyInit::new_from_slice(key).ok()?)),
            32 => Self::Aes256(Box::new(KeyInit::new_from_slice(key).ok()?)),
            _ => return None,
        })
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`Error::Seal`].
    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce: [u8; 12] = random()?;
        let payload = Payload { msg: plain, aad: about };
        let n = (&nonce).into();
        let sealed = match self {
            Self::Aes128(c) => c.encrypt(n, payload),
            Self::Aes192(c) => c.encrypt(n, payload),
            Self::Aes256(c) => c.encrypt(n, payload),
        };
        Ok([nonce.as_slice(), &sealed.map_err(|_| Error::Seal)?].concat())
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::Open`].
    pub fn open(&self, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, Error> {
        let (nonce, msg) = sealed.split_first_chunk::<12>().ok_or(Error::Short)?;
        let (n, payload) = (nonce.into(), Payload { msg, aad: about });
        let plain = match self {
            Self::Aes128(c) => c.decrypt(n, payload),
            Self::Aes192(c) => c.decrypt(n, payload),
            Self::Aes256(c) => c.decrypt(n, payload),
        };
        plain.map_err(|_| Error::Open)
    }
}

/// AES-CBC: an initialization vector of 16 bytes, and the padded text. Nothing says whether it was
/// changed.
pub struct Cbc(Vec<u8>);

impl Cbc {
    /// With a key of 16, 24 or 32 bytes.
    #[must_use]
    pub fn new(key: Vec<u8>) -> Option<Self> {
        matches!(key.len(), 16 | 24 | 32).then_some(Self(key))
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`Error::Seal`].
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        fn by<C>(key: &[u8], iv: &[u8], plain: &[u8]) -> Option<Vec<u8>>
        where
            cbc::Encryptor<C>: KeyIvInit + BlockModeEncrypt,
            C: cbc::cipher::BlockCipherEncrypt,
        {
            Some(cbc::Encryptor::<C>::new_from_slices(key, iv).ok()?.encrypt_padded_vec::<Pkcs7>(plain))
        }
        let iv: [u8; 16] = random()?;
        let sealed = match self.0.len() {
            16 => by::<Aes128>(&self.0, &iv, plain),
            24 => by::<Aes192>(&self.0, &iv, plain),
            _ => by::<Aes256>(&self.0, &iv, plain),
        };
        Ok([iv.as_slice(), &sealed.ok_or(Error::Seal)?].concat())
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::Open`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        fn by<C>(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>>
        where
            cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
            C: cbc::cipher::BlockCipherDecrypt,
        {
            cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(sealed).ok()
        }
        let (iv, sealed) = sealed.split_first_chunk::<16>().ok_or(Error::Short)?;
        let plain = match self.0.len() {
            16 => by::<Aes128>(&self.0, iv, sealed),
            24 => by::<Aes192>(&self.0, iv, sealed),
            _ => by::<Aes256>(&self.0, iv, sealed),
        };
        plain.ok_or(Error::Open)
    }
}

/// NaCl's secret box: a nonce of 24 bytes, a tag, and the text under XSalsa20.
pub struct Secretbox([u8; 32]);

impl Secretbox {
    /// With a key of 32 bytes.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        key.try_into().ok().map(Self)
    }

    /// The text under the key stream, and the key of its tag: the stream's first 32 bytes.
    fn stream(&self, nonce: &[u8; 24], text: &mut [u8]) -> [u8; 32] {
        let mut tag_key = [0; 32];
        let mut stream = XSalsa20::new(&self.0.into(), nonce.into());
        stream.apply_keystream(&mut tag_key);
        stream.apply_keystream(text);
        tag_key
    }

    fn tag(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
        Poly1305::new(key.into()).compute_unpadded(text).into()
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`Error::Seal`].
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.seal_with(&random()?, plain))
    }

    pub(super) fn seal_with(&self, nonce: &[u8; 24], plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        let tag = Self::tag(&self.stream(nonce, &mut text), &text);
        [nonce.as_slice(), &tag, &text].concat()
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::Open`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (nonce, rest) = sealed.split_first_chunk::<24>().ok_or(Error::Short)?;
        let (tag, text) = rest.split_first_chunk::<16>().ok_or(Error::Short)?;
        let mut plain = text.to_vec();
        let key = self.stream(nonce, &mut plain);
        // As long for a tag that is nearly right as for any other.
        let differ = Self::tag(&key, text).iter().zip(tag).fold(0, |d, (a, b)| d | (a ^ b));
        if std::hint::black_box(differ) == 0 { Ok(plain) } else { Err(Error::Open) }
    }
}
