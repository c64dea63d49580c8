-- The archive's tables as schema 2 had them.
CREATE TABLE contamination (       -- puzzles of this archive that a guard found too near to a guarded one
    puzzle TEXT NOT NULL,
    level TEXT NOT NULL,             -- exact | normal_form | near_duplicate | behaviour
    guarded TEXT NOT NULL,           -- the guarded puzzle's name
    detail TEXT NOT NULL,
    guard TEXT NOT NULL,             -- identity of the guard
    added_at REAL NOT NULL,
    PRIMARY KEY (puzzle, guard)
);
CREATE TABLE marks (                 -- steps of a run that are done once
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE protections (
    id TEXT PRIMARY KEY,             -- hash of the content
    content TEXT NOT NULL            -- JSON: tier, layers, probes, Python, kernel
);
CREATE TABLE chunks (                -- the unit of sampling, resuming and replaying
    id INTEGER PRIMARY KEY,
    iteration INTEGER NOT NULL,
    stage TEXT NOT NULL,             -- propose | solve | vary
    number INTEGER NOT NULL,
    checkpoint TEXT NOT NULL,        -- hash of the weights sampled from
    seed TEXT NOT NULL,
    settings TEXT NOT NULL,          -- JSON: temperature, top_p, max_tokens, batch_rows, dtype, threads
    plan BLOB NOT NULL,              -- zlib JSON: what is asked for, in order
    completions BLOB,                -- zlib JSON: every text that was sampled; NULL until sampled
    judged INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER,
    prompt_tokens INTEGER,           -- read, of each prompt once if it was read once
    sampling_seconds REAL,
    sampling_cpu_seconds REAL,
    judging_seconds REAL,
    judging_cpu_seconds REAL,        -- of the supervisor, the zygotes and their children
    UNIQUE (iteration, stage, number)
);
CREATE TABLE puzzles (
    id TEXT PRIMARY KEY,             -- hash of the normal form
    source TEXT NOT NULL,
    answer_type TEXT NOT NULL,
    header TEXT NOT NULL,
    skeleton TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    original TEXT NOT NULL,          -- the text as it came
    origin TEXT NOT NULL,            -- human | rule | import | model | variant
    skills TEXT NOT NULL,            -- JSON list
    difficulty INTEGER,
    iteration INTEGER NOT NULL,
    chunk INTEGER REFERENCES chunks, -- NULL unless proposed by a model
    position INTEGER,
    parents TEXT NOT NULL,           -- JSON list of the puzzles in the prompt
    added_at REAL NOT NULL
);
CREATE TABLE solutions (
    puzzle TEXT NOT NULL REFERENCES puzzles,
    id TEXT NOT NULL,                -- hash of the normal form
    source TEXT NOT NULL,
    answer TEXT,
    origin TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    chunk INTEGER REFERENCES chunks,
    position INTEGER,
    protections TEXT NOT NULL REFERENCES protections,
    cpu_seconds REAL NOT NULL,
    judge_cpu_seconds REAL NOT NULL,
    added_at REAL NOT NULL,
    PRIMARY KEY (puzzle, id)
);
CREATE TABLE proposals (
    chunk INTEGER NOT NULL REFERENCES chunks,
    position INTEGER NOT NULL,
    outcome TEXT NOT NULL,           -- admitted | duplicate | held_out | the rule or reason it failed
    detail TEXT NOT NULL,
    puzzle TEXT,
    PRIMARY KEY (chunk, position)
);
CREATE TABLE candidates (
    chunk INTEGER NOT NULL REFERENCES chunks,
    position INTEGER NOT NULL,       -- of its text in the chunk's completions
    puzzle TEXT NOT NULL REFERENCES puzzles,
    candidate TEXT,                  -- hash of the normal form; NULL if it could not be parsed
    verdict TEXT NOT NULL,
    detail TEXT NOT NULL,
    answer TEXT,
    cpu_seconds REAL NOT NULL,
    PRIMARY KEY (chunk, position)
);
CREATE INDEX candidates_by_puzzle ON candidates (puzzle);
CREATE TABLE refusals (              -- imported texts that did not become part of the archive
    name TEXT NOT NULL,
    what TEXT NOT NULL,              -- puzzle | solution
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    original TEXT NOT NULL,
    UNIQUE (name, what, original)
);
CREATE TABLE trained (               -- which pairs each iteration's checkpoint has learned from
    iteration INTEGER NOT NULL,
    puzzle TEXT NOT NULL,
    solution TEXT NOT NULL,
    PRIMARY KEY (iteration, puzzle, solution)
);
CREATE VIEW pairs AS
    SELECT p.id AS puzzle_id, s.id AS solution_id, p.name, p.source AS puzzle, s.source AS solution, s.answer,
           p.answer_type, p.origin AS puzzle_origin, s.origin AS solution_origin, s.iteration,
           (SELECT count(*) FROM candidates c WHERE c.puzzle = p.id) AS n,
           (SELECT count(*) FROM candidates c WHERE c.puzzle = p.id AND c.verdict = 'accepted') AS c
    FROM solutions s JOIN puzzles p ON p.id = s.puzzle;
