// Guesses camera and time from file names, as cameras and data sets write them.

const CAMERAS = [
  /(?:^|[_\-. /])(?:cam(?:era)?|ch(?:annel)?)[_\-. ]?(\d{1,4})(?!\d)/i, // cam2, camera_02, ch01
  /_(c\d{1,3})(?:s\d+)?(?:_|\.|$)/i, // 0001_c1s1_000151_00.jpg
];
const TIME = /((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])[ T_-]+([01]\d|2[0-3])[-_.:h]?([0-5]\d)(?:[-_.:m]?([0-5]\d))?/;

// { camera, time }, each left out where the name does not say it; time in Unix seconds, local time.
export function guess(path) {
  const found = {};
  for (const pattern of CAMERAS) {
    const match = path.match(pattern);
    if (!match) continue;
    found.camera = pattern === CAMERAS[0] ? `cam${Number(match[1])}` : match[1].toLowerCase();
    break;
  }
  const match = path.match(TIME);
  if (match) {
    const [year, month, day, hour, minute, second = 0] = match.slice(1).map((part) => Number(part ?? 0));
    const date = new Date(year, month - 1, day, hour, minute, second);
    if (date.getDate() === day && date < Date.now() && year >= 1990) found.time = date.getTime() / 1000;
  }
  return found;
}
