// What is nicer with script, on pages that do all they have to without: words for a new password's strength while it is
// typed, a look at what was typed, the part of the address that only a browser knows, a wait that counts down, copying and
// printing, times in the reader's own zone.
(() => {
  const words = document.currentScript.dataset;
  const language = document.documentElement.lang;
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

  const passwords = document.querySelectorAll('input[type=password]');
  for (const input of passwords) {
    const button = make('button', { type: 'button', className: 'plain', textContent: words.show });
    const show = (shown) => {
      input.type = shown ? 'text' : 'password';
      button.textContent = shown ? words.hide : words.show;
    };
    button.setAttribute('aria-controls', input.id);
    button.onclick = () => show(input.type === 'password');
    // What is sent as a text, browsers remember as one.
    input.form.addEventListener('submit', () => show(false));
    input.after(button);
    // Of several, which one it shows.
    if (passwords.length > 1) {
      const [label] = input.labels;
      button.id = input.id + '-show';
      label.id = input.id + '-label';
      button.setAttribute('aria-labelledby', button.id + ' ' + label.id);
    }

    if (input.autocomplete === 'new-password' && words.levels) {
      const said = make('p', { className: 'hint' });
      said.setAttribute('role', 'status');
      let timer;
      input.addEventListener('input', () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          said.textContent = input.value && words.strength + ': ' + words.levels.split('|')[strength(input.value)];
        }, 400);
      });
      button.after(said);
    }
  }

  // A rough guess, 0 to 4: what the server thinks of it counts. Repetitions and neighbours in the alphabet add little.
  function strength(password) {
    const characters = [...password];
    let kinds = 0;
    for (const [kind, size] of [[/[a-z]/, 26], [/[A-Z]/, 26], [/\d/, 10], [/[ -/:-@[-`{-~]/, 33], [/[^ -~]/, 100]]) {
      if (kind.test(password)) kinds += size;
    }
    let counted = 0;
    characters.forEach((character, at) => {
      const step = at ? Math.abs(character.codePointAt(0) - characters[at - 1].codePointAt(0)) : 2;
      counted += step < 2 ? 0.25 : characters.indexOf(character) < at ? 0.6 : 1;
    });
    const bits = counted * Math.log2(kinds || 1) * 0.75;
    return [28, 40, 55, 70].filter((least) => bits >= least).length;
  }

  // What stands behind `#` no server is told, so it goes along from here, unless it is a place on this very page.
  const part = location.hash;
  if (part.length > 1 && !document.getElementById(part.slice(1))) {
    for (const rd of document.querySelectorAll('input[name=rd]')) {
      if (!rd.value.includes('#')) rd.value += part;
    }
    for (const link of document.querySelectorAll('a[href*="rd="]')) link.hash ||= part;
  }

  for (const wait of document.querySelectorAll('[data-wait]')) {
    const said = wait.querySelector('strong');
    const end = Date.now() + wait.dataset.wait * 1000;
    const format = new Intl.RelativeTimeFormat(language);
    const tick = () => {
      const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      said.textContent = left < 120 ? format.format(left, 'second') : format.format(Math.ceil(left / 60), 'minute');
      if (left) setTimeout(tick, 1000);
    };
    if (said && wait.dataset.wait < 7200) tick();
  }

  for (const button of document.querySelectorAll('[data-copy]')) {
    button.hidden = !navigator.clipboard;
    button.onclick = async () => {
      const text = document.getElementById(button.dataset.copy).innerText;
      await navigator.clipboard.writeText(text.trim().split(/\s+/).join('\n'));
      button.textContent = button.dataset.done;
    };
  }
  for (const button of document.querySelectorAll('[data-print]')) {
    button.hidden = false;
    button.onclick = () => print();
  }

  for (const time of document.querySelectorAll('time[datetime]')) {
    time.title = time.textContent;
    time.textContent = new Date(time.dateTime).toLocaleString(language, { dateStyle: 'medium', timeStyle: 'short' });
  }
})();
