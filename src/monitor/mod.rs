//! stub
#![allow(missing_docs)]
pub mod log { #[derive(Debug)] pub struct Entry<'a> { pub time:&'a str, pub text:&'a [u8], pub partial: bool } impl<'a> Entry<'a> { pub fn parse(_:&'a [u8])->Option<Self>{None} } }
