// Films without controls play while the mouse or the keyboard is on them.
for (const film of document.querySelectorAll("video")) {
  const play = () => film.play().catch(() => {}), rest = () => { film.pause(); film.currentTime = 0; };
  film.addEventListener("pointerenter", play);
  film.addEventListener("pointerleave", rest);
  film.addEventListener("focus", play);
  film.addEventListener("blur", rest);
}
