//! `burn book`: double-entry books.
//!
//! Commands open the store, which takes its lock; `check` takes the lock and changes nothing.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::{Value, json};
use talea_core::store::{AccountCfg, Store as _, StoreError};
use talea_core::types::{
    AccountDef, AccountId, AccountKind, Amount, AssetClass, AssetDef, AssetId, Book, Direction, ExternalRef,
    IdempotencyKey, Network, Posting, Seq, Transaction, TxId,
};
use uuid::Uuid;

use super::{counted, human_bytes, print, print_json};
use crate::book::{self, LogTaleaStore};

/// Events or postings fetched at a time.
const PAGE: usize = 1000;

/// Lines read ahead of the batch that is being committed.
const LINES_AHEAD: usize = 4096;

#[derive(Debug, Args)]
#[command(after_help = "\
Accounts are named BOOK:PATH, as in shop:cash; a ':' or '\\' in the book's name is written '\\:' or '\\\\'.
Amounts in JSON are whole minor units (cents); tables show them with the asset's precision.

Examples:
  burn book init ledger
  burn book asset ledger USD --precision 2 --name 'US dollar'
  burn book account ledger shop:cash --asset USD --kind asset
  burn book account ledger shop:sales --asset USD --kind income
  burn book post ledger < transactions.jsonl
  burn book balance ledger --json
  burn book check ledger")]
pub(super) struct BookArgs {
    #[command(subcommand)]
    command: BookCommand,
}

#[derive(Debug, Args)]
struct Common {
    /// The store's directory.
    dir: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum BookCommand {
    /// Create a store, or see that there is one.
    Init {
        #[command(flatten)]
        common: Common,
    },
    /// Register an asset, or list all.
    #[command(after_help = "\
Examples:
  burn book asset ledger
  burn book asset ledger USD --precision 2 --name 'US dollar'
  burn book asset ledger BTC --precision 8 --name Bitcoin --network bitcoin")]
    Asset {
        #[command(flatten)]
        common: Common,
        /// Its id; without one all assets are listed.
        #[arg(requires = "precision")]
        id: Option<String>,
        /// Decimal places; they cannot be changed later.
        #[arg(long, requires = "id")]
        precision: Option<u8>,
        /// Its name; by default its id.
        #[arg(long, requires = "id")]
        name: Option<String>,
        /// The network of a crypto asset; without one it is fiat.
        #[arg(long, requires = "id")]
        network: Option<String>,
        /// What the network calls it.
        #[arg(long, requires = "network")]
        native_id: Option<String>,
    },
    /// Open an account, or list all.
    #[command(after_help = "\
Examples:
  burn book account ledger
  burn book account ledger shop:cash --asset USD --kind asset --min-balance 0")]
    Account {
        #[command(flatten)]
        common: Common,
        /// BOOK:PATH; without one all accounts are listed. The first account makes its book.
        #[arg(requires = "asset", requires = "kind", value_parser = parse_account)]
        account: Option<AccountId>,
        /// The asset it holds.
        #[arg(long, requires = "account")]
        asset: Option<String>,
        /// What it is.
        #[arg(long, value_enum, requires = "account")]
        kind: Option<Kind>,
        /// The side on which its balance counts; by default that of its kind.
        #[arg(long, value_enum, requires = "account")]
        normal_side: Option<Side>,
        /// The balance, in minor units, below which no transaction may take it.
        #[arg(long, requires = "account", allow_negative_numbers = true)]
        min_balance: Option<i64>,
    },
    /// Commit transactions: JSON from stdin, one a line.
    #[command(after_help = "\
A line: {\"idempotency_key\":\"r-1\",\"postings\":[
          {\"account\":\"shop:cash\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"debit\"},
          {\"account\":\"shop:sales\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"credit\"}]}
Optional: id (a UUID; random), book (that of the first account), external_refs, metadata, occurred_at (now). The
`event` of `burn book events` has the same form.

What is waiting on stdin is committed together, up to --batch lines. Each line is answered by one line of sequence
number, transaction id and time, tab separated, once it is durable; a key that was used before is answered as it was
then. Lines that are refused are named on stderr, and the exit code is 1.

Example:
  burn book post ledger < transactions.jsonl")]
    Post {
        #[command(flatten)]
        common: Common,
        /// Most lines that are committed together.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4096))]
        batch: u32,
    },
    /// Balances, of one account or of all.
    #[command(after_help = "\
Examples:
  burn book balance ledger
  burn book balance ledger shop:cash --as-of 2026-01-31T23:59:59Z --json")]
    Balance {
        #[command(flatten)]
        common: Common,
        /// BOOK:PATH.
        #[arg(value_parser = parse_account)]
        account: Option<AccountId>,
        /// As it was at this time (RFC 3339).
        #[arg(long)]
        as_of: Option<DateTime<Utc>>,
    },
    /// The postings of an account.
    #[command(after_help = "Example:\n  burn book history ledger shop:cash --limit 20")]
    History {
        #[command(flatten)]
        common: Common,
        /// BOOK:PATH.
        #[arg(value_parser = parse_account)]
        account: AccountId,
        /// Only events behind this one.
        #[arg(long, default_value_t = 0)]
        after: Seq,
        /// Most transactions to show.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Debits and credits of each asset, of one book or of all.
    #[command(after_help = "Example:\n  burn book trial-balance ledger shop --as-of 2026-01-31T23:59:59Z")]
    TrialBalance {
        #[command(flatten)]
        common: Common,
        /// The book.
        book: Option<String>,
        /// As they were at this time (RFC 3339).
        #[arg(long)]
        as_of: Option<DateTime<Utc>>,
    },
    /// The events of a book, one JSON object a line; `_system` has the registrations.
    #[command(after_help = "Example:\n  burn book events ledger shop --from 100 --limit 10")]
    Events {
        #[command(flatten)]
        common: Common,
        /// The book.
        book: String,
        /// The first event to show.
        #[arg(long, default_value_t = 1)]
        from: Seq,
        /// Most events to show.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// A transaction by its id, as JSON.
    Transaction {
        #[command(flatten)]
        common: Common,
        /// Its UUID.
        id: Uuid,
    },
    /// Write a snapshot, of one book or of all, so that the next opening is fast.
    Snapshot {
        #[command(flatten)]
        common: Common,
        /// The book.
        book: Option<String>,
    },
    /// Verify every segment, snapshot and run; exit code 1 if anything is wrong. Changes nothing.
    Check {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Asset,
    Liability,
    Income,
    Expense,
    Equity,
    Clearing,
}

impl From<Kind> for AccountKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Asset => Self::Asset,
            Kind::Liability => Self::Liability,
            Kind::Income => Self::Income,
            Kind::Expense => Self::Expense,
            Kind::Equity => Self::Equity,
            Kind::Clearing => Self::Clearing,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    Debit,
    Credit,
    None,
}

/// The inverse of `AccountId::to_key`.
fn parse_account(text: &str) -> Result<AccountId, String> {
    let mut book = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next() {
            Some('\\') => book.extend(rest.next()),
            Some(':') => break,
            Some(other) => book.push(other),
            None => return Err("an account is named BOOK:PATH, as in shop:cash".to_owned()),
        }
    }
    Ok(AccountId { book: Book(book), path: rest.collect() })
}

pub(super) fn run(args: BookArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(dispatch(args.command))
}

async fn dispatch(command: BookCommand) -> anyhow::Result<ExitCode> {
    match command {
        BookCommand::Init { common } => init(&common).await?,
        BookCommand::Check { common } => return check(&common),
        BookCommand::Post { common, batch } => return post(&common, batch as usize).await,
        BookCommand::Asset { common, id, precision, name, network, native_id } => {
            let store = open(&common.dir).await?;
            if let (Some(id), Some(precision)) = (id, precision) {
                let name = name.unwrap_or_else(|| id.clone());
                let class = match network {
                    Some(network) => AssetClass::Crypto { network: Network::new(network), native_id },
                    None => AssetClass::Fiat,
                };
                store.register_asset(&AssetDef { id: AssetId::new(id), class, precision, name }).await?;
            } else {
                list_assets(&store, common.json)?;
            }
            store.shutdown().await;
        }
        BookCommand::Account { common, account, asset, kind, normal_side, min_balance } => {
            let store = open(&common.dir).await?;
            if let (Some(id), Some(asset), Some(kind)) = (account, asset, kind) {
                let kind = AccountKind::from(kind);
                let normal_side = match normal_side {
                    Some(Side::Debit) => Some(Direction::Debit),
                    Some(Side::Credit) => Some(Direction::Credit),
                    Some(Side::None) => None,
                    None => kind.normal_side(),
                };
                let def = AccountDef { id, asset: AssetId::new(asset), kind };
                store.open_account(&def, &AccountCfg { normal_side, min_balance }).await?;
            } else {
                list_accounts(&store, common.json)?;
            }
            store.shutdown().await;
        }
        BookCommand::Balance { common, account, as_of } => {
            let store = open(&common.dir).await?;
            balance(&store, account, as_of, common.json).await?;
            store.shutdown().await;
        }
        BookCommand::History { common, account, after, limit } => {
            let store = open(&common.dir).await?;
            history(&store, &account, after, limit, common.json).await?;
            store.shutdown().await;
        }
        BookCommand::TrialBalance { common, book, as_of } => {
            let store = open(&common.dir).await?;
            trial_balance(&store, book, as_of, common.json).await?;
            store.shutdown().await;
        }
        BookCommand::Events { common, book, from, limit } => {
            let store = open(&common.dir).await?;
            events(&store, &book, from, limit, common.json).await?;
            store.shutdown().await;
        }
        BookCommand::Transaction { common, id } => {
            let store = open(&common.dir).await?;
            let Some(found) = store.transaction(&TxId(id)).await? else {
                bail!("there is no transaction {id}")
            };
            print_json(&json!({"seq": found.seq, "at": found.at, "transaction": found.transaction}))?;
            store.shutdown().await;
        }
        BookCommand::Snapshot { common, book } => {
            let store = open(&common.dir).await?;
            let books = match book {
                Some(book) => vec![book],
                None => user_books(&store)?,
            };
            for book in &books {
                store.snapshot_now(book).await?;
            }
            store.shutdown().await;
            if common.json {
                print_json(&json!({"books": books}))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a store that is there; only `init` makes one.
async fn open(directory: &Path) -> anyhow::Result<LogTaleaStore> {
    if !directory.join("books").is_dir() && !directory.join("LOCK").is_file() {
        bail!("there is no book store in {}; `burn book init` makes one", directory.display());
    }
    Ok(LogTaleaStore::open(directory).await?)
}

async fn init(common: &Common) -> anyhow::Result<()> {
    let store = LogTaleaStore::open(&common.dir).await?;
    let books = user_books(&store)?;
    store.shutdown().await;
    if common.json {
        print_json(&json!({"directory": common.dir, "books": books}))?;
    }
    Ok(())
}

fn user_books(store: &LogTaleaStore) -> anyhow::Result<Vec<String>> {
    Ok(store.books()?.into_iter().filter(|name| !name.starts_with('_')).collect())
}

/// A table without lines; numbers stand on the right.
fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn print_table(table: &Table) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in table.lines() {
        // Cells are padded on both sides.
        writeln!(text, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    print(text.as_bytes())
}

/// Minor units with a decimal point.
fn amount(minor: i64, precision: u8) -> String {
    let digits = format!("{:0width$}", minor.unsigned_abs(), width = usize::from(precision) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(precision));
    let sign = if minor < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The precision of an asset; that of one nobody registered is 0.
async fn precision(store: &LogTaleaStore, asset: &AssetId) -> anyhow::Result<u8> {
    Ok(store.asset(asset).await?.map_or(0, |asset| asset.precision))
}

fn list_assets(store: &LogTaleaStore, json: bool) -> anyhow::Result<()> {
    let assets = store.assets();
    if json {
        return print_json(&assets);
    }
    let mut rows = table(&["asset", "precision", "class", "name"], &[1]);
    for asset in assets {
        let class = match asset.class {
            AssetClass::Fiat => "fiat".to_owned(),
            AssetClass::Crypto { network, native_id: None } => network.as_str().to_owned(),
            AssetClass::Crypto { network, native_id: Some(id) } => format!("{}/{id}", network.as_str()),
        };
        rows.add_row([asset.id.as_str().to_owned(), asset.precision.to_string(), class, asset.name]);
    }
    print_table(&rows)
}

fn list_accounts(store: &LogTaleaStore, json: bool) -> anyhow::Result<()> {
    let mut accounts = Vec::new();
    for book in user_books(store)? {
        accounts.extend(store.accounts(&book)?);
    }
    if json {
        let accounts = accounts.iter().map(|(def, cfg)| {
            json!({
                "account": def.id.to_key(), "asset": def.asset, "kind": def.kind,
                "normalSide": cfg.normal_side, "minBalance": cfg.min_balance,
            })
        });
        return print_json(&accounts.collect::<Vec<_>>());
    }
    let mut rows = table(&["account", "asset", "kind", "normal side", "min balance"], &[4]);
    for (def, cfg) in accounts {
        let side = match cfg.normal_side {
            Some(Direction::Debit) => "debit",
            Some(Direction::Credit) => "credit",
            None => "-",
        };
        let min = cfg.min_balance.map_or_else(|| "-".to_owned(), |min| min.to_string());
        let kind = def.kind.as_str().to_owned();
        rows.add_row([def.id.to_key(), def.asset.as_str().to_owned(), kind, side.to_owned(), min]);
    }
    print_table(&rows)
}

async fn balance(
    store: &LogTaleaStore,
    account: Option<AccountId>,
    as_of: Option<DateTime<Utc>>,
    json: bool,
) -> anyhow::Result<()> {
    let accounts = match account {
        Some(account) => vec![account],
        None => {
            let mut accounts = Vec::new();
            for book in user_books(store)? {
                accounts.extend(store.accounts(&book)?.into_iter().map(|(def, _)| def.id));
            }
            accounts
        }
    };
    let mut documents = Vec::new();
    let mut rows = table(&["account", "balance", "asset", "last event"], &[1, 3]);
    for account in accounts {
        let balance = store.balance(&account, as_of).await?;
        let asset = balance.amount.asset();
        let (minor, seq) = (balance.amount.minor(), balance.updated_seq);
        documents
            .push(json!({"account": account.to_key(), "minor": minor, "asset": asset, "updatedSeq": seq}));
        let shown = amount(minor, precision(store, asset).await?);
        rows.add_row([account.to_key(), shown, asset.as_str().to_owned(), seq.to_string()]);
    }
    if json { print_json(&documents) } else { print_table(&rows) }
}

async fn history(
    store: &LogTaleaStore,
    account: &AccountId,
    after: Seq,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let mut documents = Vec::new();
    let mut rows = table(&["event", "time", "debit", "credit", "asset", "transaction"], &[0, 2, 3]);
    let (mut after, mut left) = (after, limit);
    while left > 0 {
        let page = store.account_history(account, Some(after), left.min(PAGE)).await?;
        let Some(last) = page.last().map(|row| row.seq) else { break };
        let mut seqs: Vec<Seq> = page.iter().map(|row| row.seq).collect();
        seqs.dedup();
        left -= seqs.len();
        after = last;
        for row in page {
            let asset = row.amount.asset();
            let minor = row.amount.minor();
            if json {
                documents.push(json!({
                    "seq": row.seq, "at": row.at, "txid": row.txid.0, "minor": minor, "asset": asset,
                    "direction": row.direction,
                }));
                continue;
            }
            let shown = amount(minor, precision(store, asset).await?);
            let (debit, credit) = match row.direction {
                Direction::Debit => (shown, String::new()),
                Direction::Credit => (String::new(), shown),
            };
            let at = serde_json::to_value(row.at)?.as_str().unwrap_or_default().to_owned();
            let asset = asset.as_str().to_owned();
            rows.add_row([row.seq.to_string(), at, debit, credit, asset, row.txid.0.to_string()]);
        }
    }
    if json { print_json(&documents) } else { print_table(&rows) }
}

async fn trial_balance(
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
    let mut rows = table(&["book", "asset", "debits", "credits", "difference"], &[2, 3, 4]);
    for book in books {
        for row in store.trial_balance(&Book(book.clone()), as_of).await? {
            let asset = &row.asset;
            documents
                .push(json!({"book": book, "asset": asset, "debits": row.debits, "credits": row.credits}));
            let precision = precision(store, asset).await?;
            let difference = row.debits.saturating_sub(row.credits);
            let [debits, credits, difference] =
                [row.debits, row.credits, difference].map(|minor| amount(minor, precision));
            rows.add_row([book.clone(), asset.as_str().to_owned(), debits, credits, difference]);
        }
    }
    if json { print_json(&documents) } else { print_table(&rows) }
}

async fn events(
    store: &LogTaleaStore,
    book: &str,
    from: Seq,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    if !store.books()?.iter().any(|name| name == book) {
        bail!("there is no book {book:?}");
    }
    let name = Book(book.to_owned());
    let mut out = io::stdout().lock();
    let (mut from, mut left, mut is_first) = (from.max(1), limit, true);
    // Page by page: a book can be larger than memory. With --json the pages make up one array.
    if json {
        out.write_all(b"[")?;
    }
    while left > 0 {
        let page = store.read_events(&name, from, left.min(PAGE)).await?;
        let Some(last) = page.last().map(|event| event.seq) else { break };
        left -= page.len();
        from = last + 1;
        let mut text = Vec::new();
        for event in page {
            if json && !is_first {
                text.extend_from_slice(b",\n");
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
        out.write_all(&text)?;
    }
    if json {
        out.write_all(b"]\n")?;
    }
    Ok(out.flush()?)
}

fn check(common: &Common) -> anyhow::Result<ExitCode> {
    let report = book::check(&common.dir)?;
    if common.json {
        print_json(&report)?;
    } else {
        let mut rows = table(
            &["book", "events", "accounts", "segments", "bytes", "snapshots", "runs"],
            &[1, 2, 3, 4, 5, 6],
        );
        for book in &report.books {
            rows.add_row([
                book.book.clone(),
                book.events.to_string(),
                book.accounts.to_string(),
                book.segments.to_string(),
                human_bytes(book.segments_bytes),
                book.snapshots.to_string(),
                book.runs.to_string(),
            ]);
        }
        print_table(&rows)?;
        let mut text = String::new();
        for finding in &report.findings {
            writeln!(text, "{finding}")?;
        }
        let count = report.findings.len() as u64;
        if report.ok {
            text.push_str("nothing is wrong\n");
        } else {
            writeln!(text, "{}", counted(count, "finding"))?;
        }
        print(text.as_bytes())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An account in a line: by its key or by its parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum AccountLine {
    Key(String),
    Parts(AccountId),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostingLine {
    account: AccountLine,
    amount: Amount,
    direction: Direction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransactionLine {
    id: Option<Uuid>,
    /// Stands in an event, which may be given as it is.
    #[allow(dead_code)]
    kind: Option<String>,
    book: Option<String>,
    postings: Vec<PostingLine>,
    idempotency_key: String,
    #[serde(default)]
    external_refs: Vec<ExternalRef>,
    #[serde(default = "empty_object")]
    metadata: Value,
    occurred_at: Option<DateTime<Utc>>,
}

fn empty_object() -> Value {
    json!({})
}

fn parse_transaction(line: &str) -> anyhow::Result<Transaction> {
    let line: TransactionLine = serde_json::from_str(line)?;
    let mut postings = Vec::new();
    for posting in line.postings {
        let account = match posting.account {
            AccountLine::Parts(account) => account,
            AccountLine::Key(key) => {
                parse_account(&key).map_err(|reason| anyhow!("account {key:?}: {reason}"))?
            }
        };
        postings.push(Posting { account, amount: posting.amount, direction: posting.direction });
    }
    let book = match (line.book, postings.first()) {
        (Some(book), _) => Book(book),
        (None, Some(posting)) => posting.account.book.clone(),
        (None, None) => bail!("without postings the book must be named"),
    };
    Ok(Transaction {
        id: TxId(line.id.unwrap_or_else(Uuid::new_v4)),
        book,
        postings,
        idempotency_key: IdempotencyKey(line.idempotency_key),
        external_refs: line.external_refs,
        metadata: line.metadata,
        occurred_at: line.occurred_at.unwrap_or_else(talea_core::store::ledger_now),
    })
}

/// A line of stdin with its number, from 1.
type Line = io::Result<(u64, String)>;

/// Reads stdin on a thread of its own, so that what is waiting there can be committed together.
fn lines() -> anyhow::Result<crossbeam_channel::Receiver<Line>> {
    let (send, lines) = crossbeam_channel::bounded(LINES_AHEAD);
    let read = move || {
        for (number, line) in (1..).zip(io::stdin().lock().lines()) {
            let is_blank = line.as_ref().is_ok_and(|line| line.trim().is_empty());
            if !is_blank && send.send(line.map(|line| (number, line))).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read).context("cannot read stdin")?;
    Ok(lines)
}

async fn post(common: &Common, batch: usize) -> anyhow::Result<ExitCode> {
    let store = open(&common.dir).await?;
    let lines = lines()?;
    let mut results = Vec::new();
    let (mut committed, mut rejected) = (0_u64, 0_u64);
    while let Ok(first) = tokio::task::block_in_place(|| lines.recv()) {
        let mut numbers = Vec::new();
        let mut transactions = Vec::new();
        let mut refused = Vec::new();
        for line in std::iter::once(first).chain(lines.try_iter().take(batch - 1)) {
            let (number, text) = line.context("cannot read stdin")?;
            match parse_transaction(&text) {
                Ok(transaction) => {
                    numbers.push(number);
                    transactions.push(transaction);
                }
                Err(error) => refused.push((number, None, error.to_string())),
            }
        }
        let outcomes = store.commit_batch(&transactions).await;
        let mut text = String::new();
        let mut broken = None;
        for ((outcome, transaction), number) in outcomes.into_iter().zip(&transactions).zip(numbers) {
            let key = &transaction.idempotency_key.0;
            match outcome {
                Ok(done) => {
                    committed += 1;
                    if common.json {
                        let (txid, seq, at) = (done.txid.0, done.seq, done.at);
                        results.push(json!({"line": number, "key": key, "seq": seq, "txid": txid, "at": at}));
                    } else {
                        let at = serde_json::to_value(done.at)?;
                        let at = at.as_str().unwrap_or_default();
                        writeln!(text, "{}\t{}\t{at}", done.seq, done.txid.0)?;
                    }
                }
                Err(error) => {
                    refused.push((number, Some(key.clone()), error.to_string()));
                    if matches!(error, StoreError::Io(_)) {
                        broken = Some(error);
                    }
                }
            }
        }
        print(text.as_bytes())?;
        refused.sort_by_key(|(number, ..)| *number);
        for (number, key, reason) in refused {
            rejected += 1;
            if common.json {
                results.push(json!({"line": number, "key": key, "error": reason}));
            } else {
                writeln!(io::stderr().lock(), "burn: line {number}: {reason}")?;
            }
        }
        // A store that cannot write any more is not asked again and again.
        if let Some(error) = broken.filter(is_final) {
            store.shutdown().await;
            return Err(error.into());
        }
    }
    store.shutdown().await;
    if common.json {
        results.sort_by_key(|result| result["line"].as_u64());
        print_json(&json!({"committed": committed, "rejected": rejected, "results": results}))?;
    }
    Ok(if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_final(error: &StoreError) -> bool {
    let StoreError::Io(inner) = error else { return false };
    matches!(inner.downcast_ref(), Some(book::BookError::Poisoned { .. } | book::BookError::ShutDown))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_show_the_precision_of_their_asset() {
        assert_eq!(amount(1250, 2), "12.50");
        assert_eq!(amount(-5, 2), "-0.05");
        assert_eq!(amount(7, 0), "7");
        assert_eq!(amount(i64::MIN, 18), "-9.223372036854775808");
    }

    proptest! {
        #[test]
        fn account_keys_are_read_as_the_trait_writes_them(book in "[a:\\\\ß]{0,6}", path in "[a:\\\\ß]{0,6}") {
            let id = AccountId { book: Book(book), path };
            prop_assert_eq!(parse_account(&id.to_key()).unwrap(), id);
        }
    }
}
