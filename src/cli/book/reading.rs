//! `burn book balance`, `history`, `trial-balance`, `events`, `check` and the lists: tables, or JSON.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use talea_core::store::{AccountCfg, PostingRecord, Store as _};
use talea_core::types::{AccountDef, AccountId, AssetClass, AssetId, Book, Direction, Seq};

use super::common::{BookDir, require_books, user_books};
use crate::book::{self, LogTaleaStore, Unbalanced};
use crate::cli::table::{self, Heading};
use crate::cli::{JsonArray, STDOUT, counted, human_bytes, print, print_json, print_text, warn};

/// Events or accounts fetched at a time, and lines printed at a time.
const PAGE: usize = 1000;

/// Transactions of an account fetched at a time: each time the store reads a block of up to 65 536 postings.
const HISTORY_PAGE: usize = 8 * PAGE;

/// Minor units with a decimal point.
fn amount(minor: i64, precision: u8) -> String {
    let digits = format!("{:0width$}", minor.unsigned_abs(), width = usize::from(precision) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(precision));
    let sign = if minor < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The precisions of assets.
#[derive(Default)]
struct Precisions {
    /// The assets without a registration that were named.
    unregistered: HashSet<AssetId>,
}

impl Precisions {
    /// The precision of an asset. For an asset that is not registered it is 0, and a warning says so once.
    async fn of(&mut self, store: &LogTaleaStore, asset: &AssetId) -> anyhow::Result<u8> {
        if let Some(asset) = store.asset(asset).await? {
            return Ok(asset.precision);
        }
        if self.unregistered.insert(asset.clone()) {
            warn(&format!("{} is not registered, so its amounts are minor units", asset.as_str()));
        }
        Ok(0)
    }
}

pub(super) fn list_assets(store: &LogTaleaStore, json: bool) -> anyhow::Result<()> {
    let assets = store.assets();
    if json {
        return print_json(&assets);
    }
    let headings = Heading::list(["asset", "#precision", "class", "name"]);
    let mut rows = Vec::new();
    for asset in assets {
        let class = match asset.class {
            AssetClass::Fiat => "fiat".to_owned(),
            AssetClass::Crypto { network, native_id: None } => network.as_str().to_owned(),
            AssetClass::Crypto { network, native_id: Some(id) } => format!("{}/{id}", network.as_str()),
        };
        rows.push(vec![asset.id.as_str().to_owned(), asset.precision.to_string(), class, asset.name]);
    }
    print_text(&table::text(&headings, &rows))
}

pub(super) fn account_json(def: &AccountDef, cfg: &AccountCfg) -> Value {
    json!({
        "account": def.id.to_key(), "asset": def.asset, "kind": def.kind,
        "normalSide": cfg.normal_side, "minBalance": cfg.min_balance,
    })
}

/// The accounts of all books, page by page: there can be more than are wanted in memory a second time.
struct AccountPages<'s> {
    store: &'s LogTaleaStore,
    books: std::vec::IntoIter<String>,
    book: Option<String>,
    /// Accounts of `book` that were handed out.
    count: usize,
}

impl<'s> AccountPages<'s> {
    fn new(store: &'s LogTaleaStore) -> anyhow::Result<Self> {
        let mut books = user_books(store)?.into_iter();
        Ok(Self { store, book: books.next(), books, count: 0 })
    }

    fn next_page(&mut self) -> anyhow::Result<Vec<Arc<(AccountDef, AccountCfg)>>> {
        while let Some(book) = &self.book {
            let page = self.store.account_page(book, self.count, PAGE)?;
            if !page.is_empty() {
                self.count += page.len();
                return Ok(page);
            }
            (self.book, self.count) = (self.books.next(), 0);
        }
        Ok(Vec::new())
    }
}

pub(super) fn list_accounts(store: &LogTaleaStore, json: bool) -> anyhow::Result<()> {
    let headings = Heading::list(["account", "asset", "kind", "normal side", "#min balance"]);
    let row = |(def, cfg): &(AccountDef, AccountCfg)| {
        let side = match cfg.normal_side {
            Some(Direction::Debit) => "debit",
            Some(Direction::Credit) => "credit",
            None => "-",
        };
        let min = cfg.min_balance.map_or_else(|| "-".to_owned(), |min| min.to_string());
        let kind = def.kind.as_str().to_owned();
        vec![def.id.to_key(), def.asset.as_str().to_owned(), kind, side.to_owned(), min]
    };
    let mut out = PagedOutput::new(&headings, json);
    for pass in out.passes() {
        let mut pages = AccountPages::new(store)?;
        loop {
            let page = pages.next_page()?;
            if page.is_empty() {
                break;
            }
            let documents = page.iter().map(|account| account_json(&account.0, &account.1));
            out.page(pass, page.iter().map(|account| row(account)), documents)?;
        }
    }
    out.end()
}

/// A pass over what is printed.
#[derive(Clone, Copy, PartialEq)]
enum PrintPass {
    Measure,
    Print,
}

/// A table or a JSON array that is printed page by page.
struct PagedOutput<'h> {
    table: table::TablePieces<'h>,
    array: Option<JsonArray>,
    is_empty: bool,
}

impl<'h> PagedOutput<'h> {
    fn new(headings: &'h [Heading], json: bool) -> Self {
        Self {
            table: table::TablePieces::new(headings),
            array: json.then(|| JsonArray::new(2)),
            is_empty: true,
        }
    }

    /// What has to be done with the pages: those of a table are gone over twice.
    fn passes(&self) -> Vec<PrintPass> {
        if self.array.is_some() { vec![PrintPass::Print] } else { vec![PrintPass::Measure, PrintPass::Print] }
    }

    fn page(
        &mut self,
        pass: PrintPass,
        rows: impl Iterator<Item = Vec<String>>,
        mut documents: impl Iterator<Item = Value>,
    ) -> anyhow::Result<()> {
        if pass == PrintPass::Measure {
            rows.for_each(|row| self.table.measure(&row));
            return Ok(());
        }
        self.is_empty = false;
        match &mut self.array {
            Some(array) => {
                let mut text = String::new();
                documents.try_for_each(|document| array.push(&document, &mut text))?;
                print(text.as_bytes())
            }
            None => print_text(&self.table.text(rows.collect())),
        }
    }

    fn end(mut self) -> anyhow::Result<()> {
        match self.array {
            Some(array) => print(format!("{}\n", array.end()).as_bytes()),
            None if self.is_empty => print_text(&self.table.text(Vec::new())),
            None => Ok(()),
        }
    }
}

pub(super) async fn balance(
    store: &LogTaleaStore,
    account: Option<AccountId>,
    as_of: Option<DateTime<Utc>>,
    json: bool,
) -> anyhow::Result<()> {
    let headings = Heading::list(["account", "#balance", "asset", "#last event"]);
    let mut out = PagedOutput::new(&headings, json);
    let mut precisions = Precisions::default();
    for pass in out.passes() {
        let mut pages = AccountPages::new(store)?;
        let mut only = account.clone();
        loop {
            let ids: Vec<AccountId> = match (&account, only.take()) {
                (Some(_), only) => only.into_iter().collect(),
                (None, _) => pages.next_page()?.iter().map(|account| account.0.id.clone()).collect(),
            };
            if ids.is_empty() {
                break;
            }
            let mut page = Vec::new();
            for id in ids {
                let balance = store.balance(&id, as_of).await?;
                let precision = precisions.of(store, balance.amount.asset()).await?;
                page.push((id.to_key(), balance, precision));
            }
            let rows = page.iter().map(|(key, balance, precision)| {
                let shown = amount(balance.amount.minor(), *precision);
                let asset = balance.amount.asset().as_str().to_owned();
                vec![key.clone(), shown, asset, balance.updated_seq.to_string()]
            });
            let documents = page.iter().map(|(key, balance, _)| {
                let (minor, asset) = (balance.amount.minor(), balance.amount.asset());
                json!({"account": key, "minor": minor, "asset": asset, "updatedSeq": balance.updated_seq})
            });
            out.page(pass, rows, documents)?;
        }
    }
    out.end()
}

pub(super) async fn history(
    store: &LogTaleaStore,
    account: &AccountId,
    first_after: Seq,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let headings = Heading::list(["#event", "@time", "#debit", "#credit", "asset", "transaction"]);
    let row = |row: &PostingRecord, precision: u8| {
        let shown = amount(row.amount.minor(), precision);
        let (debit, credit) = match row.direction {
            Direction::Debit => (shown, String::new()),
            Direction::Credit => (String::new(), shown),
        };
        // As the documents have it, without its quotes.
        let at = json!(row.at).as_str().unwrap_or_default().to_owned();
        let asset = row.amount.asset().as_str().to_owned();
        vec![row.seq.to_string(), at, debit, credit, asset, row.txid.0.to_string()]
    };
    let document = |row: &PostingRecord| {
        json!({
            "seq": row.seq, "at": row.at, "txid": row.txid.0, "minor": row.amount.minor(),
            "asset": row.amount.asset(), "direction": row.direction,
        })
    };
    let mut out = PagedOutput::new(&headings, json);
    let mut precisions = Precisions::default();
    for pass in out.passes() {
        let (mut after, mut left) = (first_after, limit);
        while left > 0 {
            let page = store.account_history(account, Some(after), left.min(HISTORY_PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            left -= page.chunk_by(|a, b| a.seq == b.seq).count();
            // All postings of an account are of its asset.
            let precision = precisions.of(store, last.amount.asset()).await?;
            // A transaction is not split by the store, and can be long.
            for piece in page.chunks(PAGE) {
                out.page(
                    pass,
                    piece.iter().map(|posting| row(posting, precision)),
                    piece.iter().map(document),
                )?;
            }
        }
    }
    if out.is_empty && first_after > 0 && limit > 0 {
        warn(&format!("account {} has no event after {first_after}", account.to_key()));
    }
    out.end()
}

pub(super) async fn trial_balance(
    store: &LogTaleaStore,
    book: Option<String>,
    as_of: Option<DateTime<Utc>>,
    json: bool,
) -> anyhow::Result<()> {
    let books = match book {
        Some(book) if !store.books()?.contains(&book) => bail!("there is no book {book:?}"),
        Some(book) => vec![book],
        None => user_books(store)?,
    };
    let mut documents = Vec::new();
    let headings = Heading::list(["book", "asset", "#debits", "#credits", "#difference"]);
    let mut rows = Vec::new();
    let mut precisions = Precisions::default();
    for book in books {
        for line in store.trial_balance(&Book(book.clone()), as_of).await? {
            let asset = &line.asset;
            documents
                .push(json!({"book": book, "asset": asset, "debits": line.debits, "credits": line.credits}));
            let precision = precisions.of(store, asset).await?;
            let difference = line.debits.saturating_sub(line.credits);
            if difference != 0 {
                let (asset, difference) = (asset.as_str(), amount(difference, precision));
                warn(&format!("book {book}: debits and credits of {asset} differ by {difference}"));
            }
            let [debits, credits, difference] =
                [line.debits, line.credits, difference].map(|minor| amount(minor, precision));
            rows.push(vec![book.clone(), asset.as_str().to_owned(), debits, credits, difference]);
        }
    }
    if json { print_json(&documents) } else { print_text(&table::text(&headings, &rows)) }
}

pub(super) async fn events(
    store: &LogTaleaStore,
    book: &str,
    from: Seq,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    if !store.books()?.iter().any(|name| name == book) {
        bail!("there is no book {book:?}");
    }
    let mut out = io::stdout().lock();
    let (mut from, mut left, mut is_first) = (from.max(1), limit, true);
    // Page by page: a book can be larger than memory. With --json the pages make up one array, which a failure leaves open.
    while left > 0 {
        let page = store.event_page(book, from, left.min(PAGE)).await?;
        let Some(last) = page.last().map(|event| event.seq) else { break };
        left -= page.len();
        from = last + 1;
        let mut text = Vec::new();
        for event in page {
            if json {
                text.extend_from_slice(if is_first { b"[" } else { b",\n" });
            }
            is_first = false;
            serde_json::to_writer(
                &mut text,
                &json!({"seq": event.seq, "at": event.at, "event": event.event}),
            )?;
            if !json {
                text.push(b'\n');
            }
        }
        out.write_all(&text).context(STDOUT)?;
    }
    if is_first && limit > 0 {
        warn(&format!("book {book} has no event from {} on", from.max(1)));
    }
    if json {
        out.write_all(if is_first { b"[]\n" } else { b"]\n" }).context(STDOUT)?;
    }
    out.flush().context(STDOUT)
}

pub(super) fn check(common: &BookDir) -> anyhow::Result<ExitCode> {
    require_books(&common.dir)?;
    let report = book::check(&common.dir)?;
    let count = report.findings.len() as u64 + report.findings_left_out;
    if common.json {
        print_json(&report)?;
    } else {
        let headings =
            Heading::list(["book", "#events", "#accounts", "#segments", "#bytes", "#snapshots", "#runs"]);
        let mut rows = Vec::new();
        for book in &report.status.books {
            rows.push(vec![
                book.book.clone(),
                book.events.to_string(),
                book.accounts.to_string(),
                book.segments.to_string(),
                human_bytes(book.segments_bytes),
                book.snapshots.to_string(),
                book.runs.to_string(),
            ]);
        }
        print_text(&table::text(&headings, &rows))?;
        let mut text = String::new();
        for book in &report.status.books {
            for Unbalanced { asset, debits, credits, .. } in &book.unbalanced {
                writeln!(
                    text,
                    "unbalanced  {}: {asset} has debits of {debits} and credits of {credits} minor units",
                    book.book
                )?;
            }
            for path in &book.set_aside {
                writeln!(text, "set aside   {}", path.display())?;
            }
        }
        for finding in &report.findings {
            writeln!(text, "{finding}")?;
        }
        if report.findings_left_out > 0 {
            let more = counted(report.findings_left_out, "more finding");
            writeln!(text, "and {more}, left out; repair what is listed and check again")?;
        }
        if report.ok {
            text.push_str("nothing is wrong\n");
        } else {
            writeln!(text, "{}", counted(count, "finding"))?;
        }
        print_text(&text)?;
    }
    if !report.ok {
        warn(&format!("{}: {}", common.dir.display(), counted(count, "finding")));
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_show_the_precision_of_their_asset() {
        assert_eq!(amount(1250, 2), "12.50");
        assert_eq!(amount(-5, 2), "-0.05");
        assert_eq!(amount(7, 0), "7");
        assert_eq!(amount(i64::MIN, 18), "-9.223372036854775808");
    }
}
