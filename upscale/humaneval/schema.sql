-- A study. Nothing here tells who a subject is: a number, and the hash of a random key.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);  -- values are JSON
CREATE TABLE picture (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE image (
  picture INTEGER NOT NULL REFERENCES picture,
  role TEXT NOT NULL,                -- truth, lr, check, or a method
  file TEXT NOT NULL UNIQUE,         -- random: the name tells nothing
  height INTEGER NOT NULL,
  width INTEGER NOT NULL,
  PRIMARY KEY (picture, role)
);
CREATE TABLE subject (
  id INTEGER PRIMARY KEY,            -- the slot of the plan, from 0
  key_hash TEXT UNIQUE,              -- sha256 of the cookie; NULL: nobody has this plan yet
  tab TEXT,                          -- the one tab that may answer
  enrolled REAL,                     -- seconds since 1970
  finished REAL
);
CREATE TABLE trial (
  subject INTEGER NOT NULL REFERENCES subject,
  position INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('practice', 'main', 'check')),
  task INTEGER NOT NULL,
  picture INTEGER NOT NULL REFERENCES picture,
  left_role TEXT NOT NULL,
  right_role TEXT NOT NULL,
  views INTEGER NOT NULL DEFAULT 0,  -- how often its display began
  began REAL,                        -- the server's time of the last beginning
  shown_ms REAL,                     -- how long the pictures stood, by the page's frames
  frame_ms REAL,                     -- the page's frame
  presented_ms REAL,                 -- the same by the browser's own paint times, or NULL
  zoom INTEGER,                      -- device pixels a side that one of the pictures' stood on
  PRIMARY KEY (subject, position),
  UNIQUE (subject, picture)
);
CREATE TABLE answer (
  subject INTEGER NOT NULL,
  position INTEGER NOT NULL,
  side TEXT NOT NULL CHECK (side IN ('left', 'right')),
  rt_ms REAL,                        -- from the end of the display; NULL after a reload
  at REAL NOT NULL,
  PRIMARY KEY (subject, position),
  FOREIGN KEY (subject, position) REFERENCES trial
);
CREATE TABLE refused (id INTEGER PRIMARY KEY, at REAL NOT NULL, what TEXT NOT NULL);
