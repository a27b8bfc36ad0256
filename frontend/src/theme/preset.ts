/**
 * PrimeVue dressed by the tokens. One preset for both themes: every colour is a variable of tokens.css, so a change of theme is a change of
 * one class. Only the parts in use are listed, Aura as a whole would weigh more than the application.
 * Severities are greys: alarms alone bring colour.
 */
import { definePreset } from '@primeuix/themes'
import base from '@primeuix/themes/aura/base'
import button from '@primeuix/themes/aura/button'
import checkbox from '@primeuix/themes/aura/checkbox'
import inputtext from '@primeuix/themes/aura/inputtext'
import menu from '@primeuix/themes/aura/menu'
import popover from '@primeuix/themes/aura/popover'
import selectbutton from '@primeuix/themes/aura/selectbutton'
import skeleton from '@primeuix/themes/aura/skeleton'
import togglebutton from '@primeuix/themes/aura/togglebutton'
import tooltip from '@primeuix/themes/aura/tooltip'

const overlay = { background: 'var(--overlay)', borderColor: 'var(--line-strong)', color: 'var(--text)' }

const semantic = {
  primary: { color: 'var(--accent)', contrastColor: 'var(--accent-on)', hoverColor: 'var(--accent)', activeColor: 'var(--accent)' },
  highlight: { background: 'var(--accent-soft)', focusBackground: 'var(--accent-soft)', color: 'var(--text)', focusColor: 'var(--value)' },
  formField: {
    background: 'var(--well)',
    disabledBackground: 'var(--surface)',
    borderColor: 'var(--line-ctl)',
    hoverBorderColor: 'var(--text-3)',
    focusBorderColor: 'var(--accent)',
    invalidBorderColor: 'var(--value)',
    color: 'var(--text)',
    disabledColor: 'var(--text-3)',
    placeholderColor: 'var(--text-3)',
    invalidPlaceholderColor: 'var(--text-3)',
    iconColor: 'var(--text-3)',
    shadow: 'none',
  },
  text: { color: 'var(--text)', hoverColor: 'var(--value)', mutedColor: 'var(--text-2)', hoverMutedColor: 'var(--text)' },
  content: {
    background: 'var(--surface)',
    hoverBackground: 'var(--raised)',
    borderColor: 'var(--line)',
    color: 'var(--text)',
    hoverColor: 'var(--value)',
  },
  overlay: { select: overlay, popover: overlay, modal: overlay },
  navigation: {
    item: {
      focusBackground: 'var(--raised)',
      activeBackground: 'var(--raised)',
      color: 'var(--text)',
      focusColor: 'var(--value)',
      activeColor: 'var(--value)',
      icon: { color: 'var(--text-2)', focusColor: 'var(--text)', activeColor: 'var(--text)' },
    },
    submenuLabel: { background: 'transparent', color: 'var(--text-3)' },
  },
}

const grey = {
  background: 'var(--raised)',
  hoverBackground: 'var(--line)',
  activeBackground: 'var(--line)',
  borderColor: 'var(--line-strong)',
  hoverBorderColor: 'var(--line-ctl)',
  activeBorderColor: 'var(--line-ctl)',
  color: 'var(--text)',
  hoverColor: 'var(--value)',
  activeColor: 'var(--value)',
  focusRing: { color: 'var(--focus)', shadow: 'none' },
}
const greyText = { hoverBackground: 'var(--raised)', activeBackground: 'var(--raised)', color: 'var(--text-2)' }
const greys = {
  root: {
    primary: { ...grey, background: 'var(--accent)', hoverBackground: 'var(--accent)', activeBackground: 'var(--accent)',
      borderColor: 'var(--accent)', hoverBorderColor: 'var(--accent)', activeBorderColor: 'var(--accent)',
      color: 'var(--accent-on)', hoverColor: 'var(--accent-on)', activeColor: 'var(--accent-on)' },
    secondary: grey, info: grey, success: grey, warn: grey, help: grey, danger: grey, contrast: grey,
  },
  text: { primary: greyText, secondary: greyText, info: greyText, success: greyText, warn: greyText, danger: greyText, plain: greyText },
}
const segment = {
  root: {
    background: 'var(--surface)', checkedBackground: 'var(--accent-soft)', hoverBackground: 'var(--raised)', borderColor: 'var(--line-strong)',
    color: 'var(--text-2)', hoverColor: 'var(--text)', checkedColor: 'var(--value)', checkedBorderColor: 'var(--line-strong)',
  },
  content: { checkedBackground: 'transparent' },
  icon: { color: 'var(--text-2)', hoverColor: 'var(--text)', checkedColor: 'var(--value)' },
}
const tip = { root: { background: 'var(--overlay)', color: 'var(--text)' } }
const bones = { root: { background: 'var(--raised)', animationBackground: 'transparent' } }

export const preset = definePreset(
  { ...base, components: { button, checkbox, inputtext, menu, popover, selectbutton, skeleton, togglebutton, tooltip } },
  {
    primitive: { borderRadius: { xs: '2px', sm: '3px', md: '4px', lg: '4px', xl: '6px' } },
    semantic: {
      transitionDuration: 'var(--dur-1)',
      iconSize: '13px',
      focusRing: { width: '2px', style: 'solid', color: 'var(--focus)', offset: '2px' },
      formField: {
        paddingX: '.5625rem',
        paddingY: '.375rem',
        sm: { fontSize: 'var(--t-xs)', paddingX: '.5rem', paddingY: '.1875rem' },
        borderRadius: 'var(--r-ctl)',
        focusRing: { width: '2px', style: 'solid', color: 'var(--focus)', offset: '2px' },
      },
      overlay: {
        popover: { borderRadius: 'var(--r-box)', padding: '.75rem', shadow: 'var(--shadow)' },
        navigation: { shadow: 'var(--shadow)' },
      },
      navigation: { item: { padding: '.375rem .625rem' } },
      colorScheme: { light: semantic, dark: semantic },
    },
    components: {
      button: { root: { iconOnlyWidth: '30px', sm: { iconOnlyWidth: '24px' } }, colorScheme: { light: greys, dark: greys } },
      checkbox: { root: { width: '14px', height: '14px', borderRadius: '3px' }, icon: { size: '10px' } },
      menu: { root: { background: 'var(--overlay)', borderColor: 'var(--line-strong)' } },
      togglebutton: { root: { padding: '0' }, content: { padding: '.25rem .5625rem' }, colorScheme: { light: segment, dark: segment } },
      skeleton: { colorScheme: { light: bones, dark: bones } },
      tooltip: { root: { padding: '.25rem .5rem' }, colorScheme: { light: tip, dark: tip } },
    },
  },
)
